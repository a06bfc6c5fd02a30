# Behind rules that drop everything but requests, and replies to them.
set -e
fail() { echo "FAILED: $*"; exit 1; }
for module in libcrc32c nfnetlink nf_tables nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nft_ct; do insmod /$module.ko; done
cat >/tmp/rules <<'EOT'
table inet guard {
    chain in {
        type filter hook input priority 0; policy drop;
        ct state established accept
        udp dport 11211 accept
        tcp dport 11211 accept
    }
    chain out {
        type filter hook output priority 0; policy drop;
        ct state established accept
        ip saddr 127.0.0.1 udp dport 11211 accept
        ip saddr 127.0.0.1 tcp dport 11211 accept
    }
}
EOT
nft -f /tmp/rules
insmod /unbuckle.ko memory_mb=32
answered() { # WHERE
    cat /tmp/traffic
    grep -q ' 0 replies over UDP' /tmp/traffic && fail "no replies over UDP, $1"
    grep -q ', 0 over TCP' /tmp/traffic && fail "no replies over TCP, $1"
    return 0
}
traffic 127.0.0.1:11211 2 >/tmp/traffic || fail "wrong answers: $(cat /tmp/traffic)"
answered 'on this host'

# From elsewhere: a flow begins at the socket, and goes on in the hook.
insmod /veth.ko
begin_other
inside traffic 10.9.0.1:11211 2 >/tmp/traffic || fail "wrong answers: $(cat /tmp/traffic)"
answered 'from elsewhere'
grep -E 'udp_(hooked|from_socket)' /proc/unbuckle
grep -q '^STAT udp_from_socket [1-9]' /proc/unbuckle || fail 'no flow began at the socket'
grep -q '^STAT udp_hooked [1-9]' /proc/unbuckle || fail 'no flow went on in the hook'

# Last words that get lost are sent again, though their connection is closed.
inside nft 'add table inet loss; add chain inet loss in { type filter hook input priority 0; }'
mkfifo /tmp/words
inside nc 10.9.0.1 11211 </tmp/words >/tmp/heard &
client=$!
exec 3>/tmp/words
printf 'set last 0 0 5\r\nwords\r\n' >&3
until grep -q STORED /tmp/heard; do usleep 10000; done
inside nft add rule inet loss in tcp sport 11211 drop
printf 'get last\r\nquit\r\n' >&3
until grep -q '^STAT curr_connections 0' /proc/unbuckle; do usleep 10000; done
inside nft delete table inet loss
wait $client
exec 3>&-
grep -q words /tmp/heard || fail "lost words are not sent again: $(cat /tmp/heard)"

# What the rules drop does not get in.
nft flush chain inet guard in
before=$(grep -E 'cmd_get|cmd_set' /proc/unbuckle)
inside traffic 10.9.0.1:11211 1 >/tmp/traffic
traffic 127.0.0.1:11211 1 >/tmp/traffic
[ "$before" = "$(grep -E 'cmd_get|cmd_set' /proc/unbuckle)" ] || fail 'the firewall was passed'
kill $other
rmmod unbuckle
