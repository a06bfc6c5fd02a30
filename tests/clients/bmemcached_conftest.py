"""What python-binary-memcached's tests ask of their conftest.py, which its source package leaves out: a server on IPv6 and
one with SASL. `memcached` in the path is the server under test."""

import os
import shutil
import socket
import subprocess
import time

import pytest

IPV6_PORT = 11311
SASL_PORT = 11411
USER, PASSWORD = "user", "a-password"
START_SECONDS_MAX = 15


def started(arguments, host, port, **environment):
    server = subprocess.Popen(["memcached", *arguments], env={**os.environ, **environment})
    limit = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return server
        except OSError:
            if server.poll() is not None or time.monotonic() > limit:
                server.kill()
                raise
            time.sleep(0.01)


def ended(server):
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def memcached_ipv6():
    server = started(["-l", "::1", "-p", str(IPV6_PORT)], "::1", IPV6_PORT)
    yield server
    ended(server)


@pytest.fixture(scope="module")
def memcached_sasl(tmp_path_factory):
    """Both ways to name users are offered: a file of words, and Cyrus's database where its tool is installed."""
    folder = tmp_path_factory.mktemp("sasl")
    words, database = folder / "words", folder / "sasldb2"
    words.write_text(f"{USER}:{PASSWORD}:\n")
    words.chmod(0o600)
    (folder / "memcached.conf").write_text(f"mech_list: plain\nsasldb_path: {database}\n")
    if tool := shutil.which("saslpasswd2"):
        command = [tool, "-p", "-c", "-a", "memcached", "-f", str(database), USER]
        subprocess.run(command, input=PASSWORD.encode(), check=True)
    server = started(
        ["-S", "-l", "127.0.0.1", "-p", str(SASL_PORT)],
        "127.0.0.1",
        SASL_PORT,
        MEMCACHED_SASL_PWDB=str(words),
        SASL_CONF_PATH=str(folder),
    )
    yield SASL_PORT, USER, PASSWORD
    ended(server)
