# Other namespaces: served once they are added, in both ways of serving; left when they are removed, when they
# die, and when the module goes.
set -e
fail() { echo "FAILED: $*"; exit 1; }
names=/proc/unbuckle_namespaces
served() { [ "$(wc -l <$names)" = "$1" ] || fail "$1 namespaces should be served: $(cat $names)"; }

insmod /veth.ko
mkfifo /tmp/silence
# What clients in there, and at the other end of the cable, come to.
answered() { # WHERE ADDRESS
    "$1" traffic $2:11211 1 >/tmp/traffic || fail "wrong answers at $2: $(cat /tmp/traffic)"
    ! grep -qE ' 0 replies over UDP| 0 over TCP' /tmp/traffic || fail "no replies at $2: $(cat /tmp/traffic)"
}
unanswered() {
    "$1" traffic $2:11211 1 >/tmp/traffic || true
    grep -q ' 0 replies over UDP, 0 over TCP' /tmp/traffic || fail "replies at $2: $(cat /tmp/traffic)"
}

for workers in 0 2; do
    insmod /unbuckle.ko memory_mb=32 udp_workers=$workers
    [ "$(ls -l $names | cut -c1-10)" = -rw------- ] || fail 'anybody may change it'
    grep -qF "$(readlink /proc/self/ns/net) home" $names || fail "home is not named: $(cat $names)"
    begin_other
    served 1
    unanswered inside 127.0.0.1
    for wrong in 'add nobody' 'add 99999999' 'add -1' 'take' '' 'remove' "remove $other" \
        'add 1 and so on, for longer than any line'; do
        ! echo "$wrong" 2>/dev/null >$names || fail "'$wrong' is taken"
    done
    served 1
    inside sh -c "echo add >$names" || fail 'it cannot be added'
    ! echo "add $other" 2>/dev/null >$names || fail 'it can be added twice'
    served 2
    answered inside 127.0.0.1
    answered inside 10.9.0.2
    answered env 10.9.0.2
    echo "remove $other" >$names
    served 1
    unanswered inside 127.0.0.1
    echo "add $other" >$names

    # It dies under load, and with a connection that says nothing, neither of which keeps it.
    begin_load traffic 10.9.0.2:11211 3 >/tmp/traffic
    nc 10.9.0.2 11211 </tmp/silence &
    silent=$!
    exec 3>/tmp/silence
    until inside grep -q ':2BCB .* 01 ' /proc/self/net/tcp; do usleep 10000; done
    served 2
    kill $other
    until [ "$(wc -l <$names)" = 1 ]; do usleep 10000; done
    wait $silent || true
    exec 3>&-
    wait $load || fail "wrong answers while the namespace died: $(cat /tmp/traffic)"
    sed "s/^/with udp_workers=$workers: /" /tmp/traffic
    ! grep -q ' 0 replies over UDP' /tmp/traffic || fail 'there was no load'
    answered env 127.0.0.1

    # The module goes under load, and leaves it.
    begin_other
    echo "add $other" >$names
    begin_load traffic 10.9.0.2:11211 2 >/tmp/traffic
    rmmod unbuckle
    wait $load || fail "wrong answers while the module went: $(cat /tmp/traffic)"
    [ ! -e $names ] || fail "$names is still there"
    kill $other
done

# A port that somebody has in there: it is said, and nothing is left.
insmod /unbuckle.ko memory_mb=8 item_size_max=65536
begin_other
taken() { # FILE PATTERN PROGRAM...
    file=/proc/self/net/$1
    message=$2
    shift 2
    nsenter --net=/proc/$other/ns/net "$@" >/dev/null 2>&1 &
    holder=$!
    until inside grep -q ':2BCB ' $file; do usleep 10000; done
    ! echo "add $other" 2>/dev/null >$names || fail 'a port is shared'
    dmesg | tail -3 | grep -q "unbuckle: $message" || fail "no reason: $(dmesg | tail -3)"
    served 1
    kill $holder
    wait $holder 2>/dev/null || true
}
taken udp 'cannot bind UDP port 11211' traffic hold 127.0.0.1:11211
taken tcp 'cannot listen on TCP port 11211' nc -l -p 11211 127.0.0.1
echo "add $other" >$names
served 2
rmmod unbuckle
kill $other
