# Mixed load for $MINUTES minutes on $MEMORY_MB MiB, with garbage datagrams and broken streams beside it; what it took is there again
# when the module is gone.
set -e
fail() { echo "FAILED: $*"; exit 1; }
# Connections that are over are over: else each keeps memory for a minute.
echo 0 >/proc/sys/net/ipv4/tcp_max_tw_buckets

load() { # SECONDS
    mix 127.0.0.1:11211 "$1" >/tmp/mix &
    mix=$!
    traffic 127.0.0.1:11211 "$1" >/tmp/traffic || fail "wrong answers: $(cat /tmp/traffic)"
    wait $mix || fail "wrong answers: $(cat /tmp/mix)"
}
sockets() { cat /proc/net/sockstat /proc/net/sockstat6 | awk '/^(TCP|UDP|TCP6|UDP6):/ { sum += $3 } END { print sum }'; }
slab() { awk 'NR > 2 { sum += $2 * $4 } END { printf "%d\n", sum / 1024 }' /proc/slabinfo; }
free() { sed -n 's/^MemFree: *\([0-9]*\).*/\1/p' /proc/meminfo; }
measure() {
    until [ "$(sockets)" = 0 ]; do usleep 100000; done
    # Frees that wait for readers, and what the kernel keeps because it can.
    usleep 500000
    echo 3 >/proc/sys/vm/drop_caches
    usleep 500000
    mapped_bytes=$(mapped) slab_kib=$(slab) free_kib=$(free)
}

# Once for everything that the kernel makes when it first needs it, and keeps.
insmod /unbuckle.ko memory_mb=$MEMORY_MB
load 10
rmmod unbuckle
measure
mapped_before=$mapped_bytes slab_before=$slab_kib free_before=$free_kib

insmod /unbuckle.ko memory_mb=$MEMORY_MB
load $((MINUTES * 60))
cat /tmp/mix /tmp/traffic
until grep -q '^STAT curr_connections 0' /proc/unbuckle; do usleep 100000; done
grep -E 'STAT (cmd_get|cmd_set|get_hits|evictions|curr_items|bytes|bytes_read|bytes_written|total_connections|rejected_connections|malloc_fails|corrupt|udp_.*) ' /proc/unbuckle
grep -q '^STAT corrupt 0' /proc/unbuckle || fail 'corrupt items'
# What the clients have stored at any time is some 20 MiB.
[ $MEMORY_MB -ge 16 ] || grep -q '^STAT evictions [1-9]' /proc/unbuckle || fail 'nothing was evicted'
loaded=$(mapped)
rmmod unbuckle
measure
echo "kernel mappings: $mapped_before bytes before, $loaded loaded, $mapped_bytes after"
echo "slab in use: $slab_before KiB before, $slab_kib KiB after"
echo "free: $free_before KiB before, $free_kib KiB after"
[ "$mapped_bytes" = "$mapped_before" ] || fail "kernel mappings are left: $(grep -vE 'kernel_clone|dup_task_struct' /proc/vmallocinfo)"
# KASAN keeps what was freed for a while, as if it were in use; there, kmemleak tells what was not.
[ ! -e $LEAKS ] || exit 0
# What is in use counts whole slabs that processors keep for themselves.
[ $((slab_kib - slab_before)) -le 1024 ] || fail 'slab memory is left'
# Nor are pages that processors keep for themselves free.
[ $((free_before - free_kib)) -le 16384 ] || fail 'memory is left'
