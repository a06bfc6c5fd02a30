"""Drives a server by pymemcache through everything that the classic protocol offers. Usage: python FILE PORT [CA].

With the certificate of an authority, everything goes over TLS, and the server's certificate and name are verified.
"""

import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheIllegalInputError, MemcacheServerError

ADDRESS = ("127.0.0.1", int(sys.argv[1]))
TLS = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None


def storage(client):
    assert client.set("key", b"value") is True
    assert client.get("key") == b"value"
    assert client.get("missing") is None
    assert client.get("missing", "default") == "default"
    assert client.add("key", b"other", noreply=False) is False
    assert client.add("new", b"fresh", noreply=False) is True
    assert client.replace("nowhere", b"x", noreply=False) is False
    assert client.replace("key", b"changed", noreply=False) is True
    assert client.append("key", b"-after", noreply=False) is True
    assert client.prepend("key", b"before-", noreply=False) is True
    assert client.get("key") == b"before-changed-after"
    assert client.delete("key", noreply=False) is True
    assert client.delete("key", noreply=False) is False


def many(client):
    values = {f"many-{number}": f"value {number}".encode() * 50 for number in range(500)}
    assert client.set_many(values, noreply=False) == []
    assert client.get_many(list(values) + ["absent"]) == values
    assert set(client.gets_many(["many-1", "many-2", "absent"])) == {"many-1", "many-2"}
    assert client.delete_many(list(values)[:250], noreply=False) is True
    assert len(client.get_many(list(values))) == 250


def compare_and_swap(client):
    client.set("cas", b"1")
    value, cas = client.gets("cas")
    assert value == b"1"
    assert client.cas("cas", b"2", cas) is True
    assert client.cas("cas", b"3", cas) is False
    assert client.cas("nothing", b"3", cas) is None


def arithmetic(client):
    client.set("count", b"10")
    assert client.incr("count", 5) == 15
    assert client.decr("count", 20) == 0
    assert client.incr("nothing", 1) is None
    client.set("word", b"word")
    try:
        client.incr("word", 1)
        raise AssertionError("incr of a word was accepted")
    except MemcacheClientError:
        pass


def expiry(client):
    client.set("gone", b"x", expire=-1)
    assert client.get("gone") is None
    client.set("touched", b"x")
    assert client.touch("touched", 100, noreply=False) is True
    assert client.touch("nothing", 100, noreply=False) is False
    assert client.get("touched") == b"x"


def large_and_odd(client):
    big = bytes(range(256)) * 3900
    assert client.set("big", big, noreply=False) is True
    assert client.get("big") == big
    assert client.set("empty", b"", noreply=False) is True
    assert client.get("empty") == b""
    assert client.set("lines", b"\r\nEND\r\nVALUE x 0 1\r\n", noreply=False) is True
    assert client.get("lines") == b"\r\nEND\r\nVALUE x 0 1\r\n"
    assert client.set("k" * 250, b"x", noreply=False) is True
    assert client.get("k" * 250) == b"x"
    try:
        client.set("too big", b"x")
        raise AssertionError("a key with a space was accepted")
    except MemcacheIllegalInputError:
        pass
    try:
        client.set("huge", b"x" * 2_000_000, noreply=False)
        raise AssertionError("two megabytes were accepted")
    except MemcacheServerError:
        pass


def administration(client):
    assert client.version()
    stats = client.stats()
    assert stats[b"curr_items"] > 0
    assert b"limit_maxbytes" in stats
    assert client.stats("settings")
    client.cache_memlimit(128)
    assert client.stats()[b"limit_maxbytes"] == 128 << 20
    client.set("flushed", b"x")
    assert client.flush_all(noreply=False) is True
    assert client.get("flushed") is None


def threads():
    pool = PooledClient(ADDRESS, max_pool_size=8, tls_context=TLS)

    def work(worker):
        for number in range(300):
            key, value = f"thread-{worker}-{number}", f"{worker}:{number}".encode() * (number % 40 + 1)
            pool.set(key, value, noreply=False)
            assert pool.get(key) == value, key
        return True

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(work, range(8)))
    pool.close()


def hashed():
    client = HashClient([ADDRESS], use_pooling=True, tls_context=TLS)
    client.set_many({f"hashed-{number}": str(number) for number in range(100)})
    assert client.get("hashed-42") == b"42"
    client.close()


def main():
    client = Client(ADDRESS, default_noreply=False, timeout=20, tls_context=TLS)
    for part in [storage, many, compare_and_swap, arithmetic, expiry, large_and_odd, administration]:
        part(client)
    client.quit()
    threads()
    hashed()


main()
