# Everything that is refused, with a reason, and without a trace.
set -e
fail() { echo "FAILED: $*"; exit 1; }

# What it may leave in the kernel: sockets, threads, memory, names.
left() {
    cat /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6 | grep -c ':2BCB ' || true
    ps | grep -c '[u]nbuckle_' || true
    mapped
    ls -d /proc/unbuckle /sys/module/unbuckle 2>/dev/null || true
}

# What is impossible is refused with a reason, and leaves nothing behind.
refused() { # PATTERN PARAMETER...
    pattern=$1
    shift
    left >/tmp/before
    insmod /unbuckle.ko "$@" 2>/dev/null && fail "insmod $* was not refused"
    dmesg | tail -3 | grep -q "unbuckle: $pattern" || fail "insmod $*: no message like '$pattern': $(dmesg | tail -3)"
    left >/tmp/after
    cmp -s /tmp/before /tmp/after || fail "insmod $* left something behind: $(cat /tmp/before) became $(cat /tmp/after)"
}
insmod /unbuckle.ko && rmmod unbuckle || fail 'it does not load at all'
refused 'port=0 is not possible' port=0
refused 'port=70000 is not possible' port=70000
refused '`-1. invalid for parameter `port' port=-1
refused 'memory_mb=0 is not possible' memory_mb=0
refused 'memory_mb needs' memory_mb=100000
refused 'memory_mb needs' memory_mb=700
refused 'item_size_max=' memory_mb=8 item_size_max=100000000
refused 'item_size_max=' memory_mb=1
refused 'routing=nowhere is not known' routing=nowhere
refused 'protocol=telnet is not known' protocol=telnet
refused 'workers=257 is not possible' workers=257
refused 'udp_workers=257 is not possible' udp_workers=257
refused 'connections=0 is not possible' connections=0
refused 'chunk_size=0 is not possible' chunk_size=0
refused 'growth_percent=100 is not possible' growth_percent=100
refused 'udp_allow: 10.0.0.0/33 is not possible' udp_allow=10.0.0.0/33
refused 'udp_allow: nobody is not possible' udp_allow=::1,nobody
refused 'address=here is not possible' address=here
refused 'cannot bind UDP port 11211 (IPv4): this host has no such address' address=203.0.113.7
refused 'tcp=0 with udp=0' tcp=0 udp=0
refused 'requests_per_turn=0' requests_per_turn=0

# Somebody else has the port: one transport, one family.
taken() { # FILE PATTERN PROGRAM...
    file=/proc/net/$1
    message=$2
    shift 2
    "$@" >/dev/null 2>&1 &
    holder=$!
    until grep -q ':2BCB ' "$file"; do usleep 10000; done
    refused "$message" port=11211
    refused "$message" port=11211 udp_workers=2
    kill $holder
    wait $holder 2>/dev/null || true
}
taken tcp 'cannot listen on TCP port 11211 (IPv4)' nc -l -p 11211 127.0.0.1
taken tcp6 'cannot listen on TCP port 11211 (IPv6)' nc -l -p 11211 ::1
taken udp 'cannot bind UDP port 11211 (IPv4)' traffic hold 127.0.0.1:11211
taken udp6 'cannot bind UDP port 11211 (IPv6)' traffic hold '[::1]:11211'

# Nearly all of the memory: what is told to be there is there, and what threads need counts.
insmod /unbuckle.ko memory_mb=100000 2>/dev/null || true
most=$(dmesg | sed -n 's/.*this machine has \([0-9]*\) to give.*/\1/p' | tail -1)
# KASAN keeps a map of it beside it.
map=0
[ ! -e $LEAKS ] || map=$((most / 4))
echo "of $(sed -n 's/MemTotal: *//p' /proc/meminfo) it takes $most MiB"
refused "memory_mb needs" memory_mb=$((most + 8))
refused 'memory_mb needs' memory_mb=$((most - 50)) workers=256
insmod /unbuckle.ko memory_mb=$((most - 10 - map)) || fail 'it refuses what it says is there'
traffic 127.0.0.1:11211 1 >/tmp/traffic || fail "wrong answers with little memory left: $(cat /tmp/traffic)"
rmmod unbuckle
insmod /unbuckle.ko memory_mb=$((most - 110 - map)) workers=256 udp_workers=256 || fail 'it refuses what leaves room for threads'
rmmod unbuckle
# What others have taken in the meantime is not there.
dd if=/dev/zero of=/tmp/held bs=1M count=200 2>/dev/null
refused 'memory_mb needs' memory_mb=$((most - 100))
rm /tmp/held
! dmesg | grep -qi 'out of memory' || fail 'the OOM killer was woken'
