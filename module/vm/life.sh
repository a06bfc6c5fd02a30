# Counters; then loading and unloading under traffic, in both ways of serving UDP.
set -e
fail() { echo "FAILED: $*"; exit 1; }

# Everybody is answered, by every way in; the hook has its part of it.
for parameters in '' 'udp_workers=2' 'udp_workers=2 routing=key'; do
    insmod /unbuckle.ko memory_mb=32 $parameters
    traffic 127.0.0.1:11211 2 >/tmp/traffic || fail "wrong answers with '$parameters': $(cat /tmp/traffic)"
    traffic '[::1]:11211' 1 >>/tmp/traffic || fail "wrong answers over IPv6 with '$parameters'"
    sed "s/^/'$parameters' /" /tmp/traffic
    grep -q ' 0 replies over UDP' /tmp/traffic && fail "no replies over UDP with '$parameters'"
    grep -q ', 0 over TCP' /tmp/traffic && fail "no replies over TCP with '$parameters'"
    grep -q '^STAT udp_hooked [1-9]' /proc/unbuckle || fail "the hook saw nothing with '$parameters'"
    grep -q '^STAT corrupt 0' /proc/unbuckle || fail "corrupt items with '$parameters'"
    grep -E 'udp_(hooked|from|dropped)|malloc|curr_conn|evictions' /proc/unbuckle | sed 's/^STAT/ /'
    rmmod unbuckle
done

# One address, and no other.
insmod /unbuckle.ko memory_mb=8 item_size_max=65536 address=127.0.0.2
traffic 127.0.0.2:11211 1 >/tmp/traffic || fail 'wrong answers at one address'
grep -q ' 0 replies over UDP' /tmp/traffic && fail 'no replies at one address'
traffic 127.0.0.1:11211 1 >/tmp/traffic
grep -q ' 0 replies over UDP, 0 over TCP' /tmp/traffic || fail "another address is served: $(cat /tmp/traffic)"
traffic '[::1]:11211' 1 >/tmp/traffic
grep -q ' 0 replies over UDP, 0 over TCP' /tmp/traffic || fail "another family is served: $(cat /tmp/traffic)"
rmmod unbuckle

# Strangers are served at a rate, and get little more than they send.
insmod /unbuckle.ko memory_mb=8 item_size_max=65536 udp_allow=192.0.2.0/24
rounds=0
# How much is asked in a while depends on the machine.
until grep -q '^STAT udp_dropped_size [1-9]' /proc/unbuckle; do
    [ $((rounds += 1)) -le 20 ] || fail 'strangers get long replies'
    traffic 127.0.0.1:11211 2 >/tmp/traffic || fail "wrong answers for strangers: $(cat /tmp/traffic)"
    sed 's/^/stranger: /' /tmp/traffic
done
rmmod unbuckle

# Who is silent for too long has to go.
insmod /unbuckle.ko memory_mb=8 item_size_max=65536 idle_timeout=1
sleep 60 | nc 127.0.0.1 11211 &
until grep -q '^STAT curr_connections 1' /proc/unbuckle; do usleep 10000; done
until grep -q '^STAT idle_kicks 1' /proc/unbuckle; do usleep 100000; done
until grep -q '^STAT curr_connections 0' /proc/unbuckle; do usleep 10000; done
rmmod unbuckle

# Over a wire between two namespaces.
insmod /veth.ko
begin_other
insmod /unbuckle.ko memory_mb=32
inside traffic 10.9.0.1:11211 2 >/tmp/traffic || fail "wrong answers over veth: $(cat /tmp/traffic)"
sed 's/^/veth: /' /tmp/traffic
grep -q ' 0 replies over UDP' /tmp/traffic && fail 'no replies over veth'
# A namespace in which the module is not loaded has nothing of it.
inside sh -c 'printf "version\r\n" | nc -w 1 127.0.0.1 11211' 2>/dev/null | grep -q VERSION && fail 'served in another namespace'
rmmod unbuckle

# The namespace in which it is loaded dies under load; it goes on until it is unloaded.
inside insmod /unbuckle.ko memory_mb=32
begin_load traffic 10.9.0.2:11211 2 >/tmp/traffic
kill $other
wait $load || fail "wrong answers while the namespace died: $(cat /tmp/traffic)"
rmmod unbuckle

# Ten times in and out, with clients that never stop.
traffic 127.0.0.1:11211 15 >/tmp/traffic &
load=$!
for round in 1 2 3 4 5 6 7 8 9 10; do
    insmod /unbuckle.ko memory_mb=16 udp_workers=$((round % 3))
    usleep 400000
    rmmod unbuckle
done
wait $load || fail "wrong answers while the module came and went: $(cat /tmp/traffic)"
sed 's/^/in and out: /' /tmp/traffic
[ ! -e /proc/unbuckle ] || fail '/proc/unbuckle is still there'
