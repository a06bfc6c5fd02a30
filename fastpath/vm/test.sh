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
    # No tcx: XDP alone, and that not on a cable unless somebody insists.
    /bin/ip link add veth0 type veth peer name veth1
    unbuckle -u root -U 11311 --fastpath veth0 --fastpath-required >/tmp/refusal 2>&1 && exit 1
    cat /tmp/refusal
    grep -q "veth0 is no network card's" /tmp/refusal
    /bin/ip link delete veth0
    fastpath_wire --test-threads 2 xdp
    ;;
*)
    UNBUCKLE_FUZZ_PACKETS=2000 bad_input --test-threads 2
    programs --test-threads 2
    # The rest of it runs on any machine.
    fastpath_wire --test-threads 2 vlan
    ;;
esac
