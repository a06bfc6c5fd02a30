# Instructions for one get, client and network stack included, as the machine's clock counts them. The same client asks
# memcached on the same machine.
set -e
memcached -u root -l 127.0.0.1 -p 11222 -U 11222 -t 1 -m 16 >/tmp/peer 2>&1 &
peer=$!
insmod /unbuckle.ko memory_mb=16 item_size_max=65536
until grep -q ':2BD6 .* 0A ' /proc/net/tcp; do usleep 10000; done
for transport in udp tcp; do
    for bytes in 10 100 1000; do
        ours=$(traffic count $transport 127.0.0.1:11211 1000 $bytes)
        theirs=$(traffic count $transport 127.0.0.1:11222 1000 $bytes)
        echo "$transport get, $bytes bytes: $ours instructions, memcached $theirs, ratio 0.$(printf %03d $((1000 * ours / theirs)))"
    done
done
kill $peer
rmmod unbuckle
