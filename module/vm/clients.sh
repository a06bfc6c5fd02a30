# memccapable, which knows both protocols. One test of the text protocol is of what 1.6.45 answers otherwise, too.
insmod /unbuckle.ko memory_mb=32
memccapable -h 127.0.0.1 -p 11211 -b >/tmp/binary 2>&1
memccapable -h 127.0.0.1 -p 11211 -a >/tmp/text 2>&1
rmmod unbuckle
grep -c '\[pass\]' /tmp/binary /tmp/text
grep -v '\[pass\]' /tmp/binary /tmp/text
grep -q 'All tests passed' /tmp/binary || exit 1
failed=$(grep -c 'fail' /tmp/text)
[ "$failed" -le 2 ]
