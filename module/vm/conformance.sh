# The conformance suite against the module, over every transport that it has. One run: reading the cases takes longer
# than playing them.
exec conformance --target module /unbuckle.ko --transcripts /transcripts \
    --transport udp --transport datagram --transport tcp --transport drip
