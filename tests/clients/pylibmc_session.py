"""Drives a server by pylibmc (libmemcached) over the text protocol. Usage: python FILE PORT."""

import sys

import pylibmc

ADDRESS = f"127.0.0.1:{sys.argv[1]}"


def session(client):
    assert client.set("key", "value")
    assert client.get("key") == "value"
    assert client.get("missing") is None
    assert not client.add("key", "other")
    assert client.add("new", "fresh")
    assert not client.replace("nowhere", "x")
    assert client.replace("key", "changed")
    client.set("bytes", b"middle")
    assert client.append("bytes", b"-after") and client.prepend("bytes", b"before-")
    assert client.get("bytes") == b"before-middle-after"
    assert client.delete("key") and not client.delete("key")

    values = {f"many-{number}": "v" * number for number in range(300)}
    assert client.set_multi(values) == []
    assert client.get_multi(list(values) + ["absent"]) == values
    assert client.delete_multi(list(values))
    assert client.get_multi(list(values)) == {}

    client.set("count", 10)
    assert client.incr("count", 5) == 15
    assert client.decr("count") == 14
    assert client.touch("count", 100)

    value = {"a": [1, 2.5, None], "b": "text" * 1000}
    assert client.set("pickled", value) and client.get("pickled") == value
    big = bytes(range(256)) * 3900
    assert client.set("big", big) and client.get("big") == big

    client.set("swapped", "one")
    value, cas = client.gets("swapped")
    assert value == "one" and client.cas("swapped", "two", cas)
    assert not client.cas("swapped", "three", cas)
    try:
        client.set("k" * 251, "x")
        raise AssertionError("a key of 251 bytes was accepted")
    except ValueError:
        pass
    try:
        client.set("huge", b"x" * 2_000_000)
        raise AssertionError("two megabytes were accepted")
    except pylibmc.Error:
        pass
    assert client.get("new") == "fresh"
    (_, stats), = client.get_stats()
    assert int(stats[b"curr_items" if b"curr_items" in stats else "curr_items"]) > 0
    assert client.flush_all()
    assert client.get("pickled") is None


def main():
    for behaviors in [{"cas": True}, {"cas": True, "tcp_nodelay": True, "no_block": True}, {"cas": True, "buffer_requests": False}]:
        client = pylibmc.Client([ADDRESS], binary=False, behaviors=behaviors)
        session(client)
        client.disconnect_all()


main()
