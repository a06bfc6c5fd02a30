# Instructions for one get, client and network stack included, as the machine's clock counts them: of the module; of an
# echo by the same hook, of as many bytes; of the same engine in user space; of memcached. One client asks all of them.
# A number of instructions does not depend on how busy the host is, so that these may be held to something.
set -e
fail() { echo "FAILED: $*"; exit 1; }
until_listens() { until grep -q ":$1 .* 0A " /proc/net/tcp; do usleep 10000; done; }
ratio() { printf '%d.%03d' $(($1 / $2)) $((1000 * $1 / $2 % 1000)); }

memcached -u root -l 127.0.0.1 -p 11222 -U 11222 -t 1 -m 16 >/tmp/peer 2>&1 &
peer=$!
unbuckle -l 127.0.0.1 -p 11233 -U 11233 -t 1 -m 16 >/tmp/server 2>&1 &
server=$!
until_listens 2BD6
until_listens 2BE1
insmod /unbuckle.ko memory_mb=16 item_size_max=65536
for bytes in 10 100 1000; do
    traffic count udp 127.0.0.1:11211 1000 $bytes >/tmp/udp.$bytes
done
for bytes in 10 100 1000; do
    for transport in udp tcp; do
        ours=$(traffic count $transport 127.0.0.1:11211 1000 $bytes)
        user=$(traffic count $transport 127.0.0.1:11233 1000 $bytes)
        theirs=$(traffic count $transport 127.0.0.1:11222 1000 $bytes)
        echo "$transport get, $bytes bytes: $ours instructions; our server $user, ratio $(ratio $ours $user);" \
            "memcached $theirs, ratio $(ratio $ours $theirs)"
        [ $ours -lt $user ] || fail "a get over $transport costs more than in user space"
        [ $transport = tcp ] || [ $((100 * ours)) -le $((48 * theirs)) ] || fail "a get costs more than 0.48 of memcached's"
    done
done
kill $peer $server
rmmod unbuckle

insmod /echo.ko memory_mb=16 item_size_max=65536 tcp=0
for bytes in 10 100 1000; do
    ours=$(cat /tmp/udp.$bytes)
    echoed=$(traffic count echo 127.0.0.1:11211 1000 $bytes)
    echo "udp get, $bytes bytes: $ours instructions; an echo $echoed, ratio $(ratio $ours $echoed)"
    [ $((100 * ours)) -le $((125 * echoed)) ] || fail 'a get over UDP costs more than 1.25 echoes'
done
rmmod unbuckle
