# The fast path on this kernel: its programs are verified, and do on a cable and on packets what they should.
set -e
export PATH=/bin:/sbin:/usr/bin:/usr/sbin UNBUCKLE=/bin/unbuckle UNBUCKLE_NO_SKIPS=1 RUST_BACKTRACE=0
mkdir -p /run
mount -t bpf bpf /sys/fs/bpf
for module in llc stp mrp garp 8021q veth; do
    insmod "/$module.ko"
done
load --nocapture
case $(uname -r) in
6.[1-5].*)
    # No tcx: XDP alone.
    fastpath_wire --test-threads 2 xdp
    ;;
*)
    bad_input --test-threads 2
    programs --test-threads 2
    live --test-threads 2
    fastpath_wire --test-threads 2 --nocapture
    ;;
esac
