# The conformance suite against the module, over every transport that it has.
set -e
suite() { conformance --target module /unbuckle.ko --transcripts /transcripts "$@"; }
suite --transport udp --transport datagram --transport tcp
# Byte by byte only what does not tell times to live: emulated, so many segments take long enough for a second to pass.
suite --transport drip bad_input/ incr/ noreply/ gets/ binary/
