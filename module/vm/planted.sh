# The detectors of the debug kernel: each has to report the bug that is planted for it, and what init looks for at every
# test's end has to see that report, too.
insmod /unbuckle.ko memory_mb=8 item_size_max=65536 || exit 1
missed=0
planted() { # NAME REPORT
    seen=
    dmesg -c >/dev/null
    echo "$1" >/sys/module/unbuckle/parameters/plant || exit 1
    [ "$1" = leak ] && leaks
    dmesg -c >/tmp/report
    if ! grep -qE "$2" /tmp/report; then
        echo "$1: no report like '$2'"
        missed=1
    elif ! grep -qE "$TROUBLE" /tmp/report; then
        echo "$1: its report would not be seen"
        missed=1
    else
        echo "$1: $(grep -m 1 -oE "$2.*" /tmp/report)"
        return
    fi
    head -20 /tmp/report
}
planted sleep-locked 'BUG: sleeping function called from invalid context'
# Lockdep stops after its first report, and after anybody else's.
planted invert 'possible circular locking dependency'
rust='(unbuckle_|_R|_ZN)'
planted write-beyond "KASAN: slab-out-of-bounds in $rust"
planted read-beyond "KASAN: slab-out-of-bounds in $rust"
planted write-beyond-pages "KASAN: vmalloc-out-of-bounds in $rust"
planted use-freed "KASAN: slab-use-after-free in $rust"
planted leak 'kmemleak: [1-9][0-9]* new suspected'
planted free-armed 'ODEBUG: free active'
rmmod unbuckle
echo clear >/sys/kernel/debug/kmemleak
dmesg -c >/dev/null
exit $missed
