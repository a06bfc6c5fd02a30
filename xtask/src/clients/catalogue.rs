//! The clients' own suites: what each needs, and which of its tests fail on memcached 1.6.45 as well.

use super::fetch::{Sources, cargo_path, python_path};
use super::report::Form;
use super::suite::Suite;
use std::path::PathBuf;

const PYTHON: &[(&str, &str)] = &[
    ("python3", "apt-get install python3-venv python3-dev gcc"),
    ("/usr/include/libmemcached/memcached.h", "apt-get install libmemcached-dev"),
];
const TLS: &[(&str, &str)] = &[("/usr/include/openssl/ssl.h", "apt-get install libssl-dev pkg-config")];
const PHP: &[(&str, &str)] = &[
    ("php", "apt-get install php-cli php-memcached"),
    ("/etc/php/8.2/mods-available/memcached.ini", "apt-get install php-memcached"),
];
const TOXIPROXY: &str = "needs toxiproxy-server, which Debian does not have";
const ON_THE_USUAL_PORT: &str = "-p 11211";

pub(super) fn suites() -> Vec<Suite> {
    vec![
        pymemcache(),
        pylibmc(),
        django(),
        bmemcached(),
        memcache_crate(),
        async_memcached_crate(),
        php_memcached(),
    ]
}

fn python(_: &Sources) -> PathBuf {
    python_path()
}

fn cargo(_: &Sources) -> PathBuf {
    cargo_path()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Its settings for pytest are left out: they want coverage.
const PYTEST: &str = "-m pytest -v --tb=short -p no:cacheprovider -W ignore -c /dev/null --rootdir .";

fn pymemcache() -> Suite {
    Suite {
        name: "pymemcache",
        needs: PYTHON,
        servers: &[ON_THE_USUAL_PORT],
        program: python,
        arguments: |_| {
            let mut arguments = words(PYTEST);
            arguments.extend(["-m", "unit or integration", "pymemcache/test"].map(str::to_owned));
            arguments
        },
        environment: &[],
        folder: "pymemcache",
        form: Form::Pytest,
        is_crate: false,
        passed_min: 671,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}

fn pylibmc() -> Suite {
    Suite {
        name: "pylibmc",
        needs: PYTHON,
        servers: &[ON_THE_USUAL_PORT],
        program: python,
        arguments: |_| words(&format!("{PYTEST} tests")),
        environment: &[],
        folder: "pylibmc",
        form: Form::Pytest,
        is_crate: false,
        passed_min: 41,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}

fn django() -> Suite {
    Suite {
        name: "Django",
        needs: PYTHON,
        servers: &[ON_THE_USUAL_PORT],
        program: python,
        arguments: |_| {
            words(
                "runtests.py --verbosity 2 --parallel 1 --settings django_settings \
                 cache.tests.PyMemcacheCacheTests cache.tests.PyLibMCCacheTests",
            )
        },
        environment: &[("PYTHONPATH", "{ours}")],
        folder: "Django/tests",
        form: Form::Unittest,
        is_crate: false,
        passed_min: 116,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}

fn bmemcached() -> Suite {
    Suite {
        name: "python-binary-memcached",
        needs: PYTHON,
        servers: &[ON_THE_USUAL_PORT, "-p 5000", "-s {sockets}/bmemcached.sock"],
        program: python,
        arguments: |_| words(&format!("{PYTEST} test")),
        environment: &[],
        folder: "python-binary-memcached",
        form: Form::Pytest,
        is_crate: false,
        passed_min: 299,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}

/// The servers are those of the script that the crate ships with its tests.
fn memcache_crate() -> Suite {
    Suite {
        name: "the crate memcache",
        needs: TLS,
        servers: &[
            "-p 12345",
            "-p 12346",
            "-p 12347",
            "-p 12348",
            "-p 12349",
            "-p 12350 -Z -o ssl_key={sources}/memcache/tests/assets/localhost.key,ssl_chain_cert={sources}/memcache/tests/assets/localhost.crt",
            "-p 12351 -Z -o ssl_key={sources}/memcache/tests/assets/localhost.key,ssl_chain_cert={sources}/memcache/tests/assets/localhost.crt,ssl_verify_mode=2,ssl_ca_cert={sources}/memcache/tests/assets/RUST_MEMCACHE_TEST_CERT.crt",
            "-p 11211 -U 22345",
            "-s {sockets}/crate.sock",
            "-s {sockets}/crate2.sock",
        ],
        program: cargo,
        arguments: |_| words("test --offline --all-features --lib --tests --no-fail-fast"),
        environment: CARGO,
        folder: "memcache",
        form: Form::Cargo,
        is_crate: true,
        passed_min: 165,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}

/// It starts its servers itself.
fn async_memcached_crate() -> Suite {
    Suite {
        name: "the crate async-memcached",
        needs: TLS,
        servers: &[],
        program: cargo,
        arguments: |_| {
            words("test --offline --all-features --lib --tests --no-fail-fast -- --include-ignored")
        },
        environment: CARGO,
        folder: "async-memcached",
        form: Form::Cargo,
        is_crate: true,
        passed_min: 239,
        fails_on_memcached: &[
            ("key_dump", "its parser does not know how 1.6.45 ends the lines of a dump"),
            ("caller_timeouts_allow_recovery_with_a_new_connection", TOXIPROXY),
            ("fragmented_requests_and_responses_preserve_payloads", TOXIPROXY),
            ("meta_write_pipeline_reports_disconnect_and_can_be_retried_on_a_new_client", TOXIPROXY),
            ("single_and_multi_reads_report_proxy_shutdown", TOXIPROXY),
            ("truncated_read_bodies_never_return_partial_values", TOXIPROXY),
            ("with_toxic_client", TOXIPROXY),
        ],
        can_lose_a_race: &[],
    }
}

const CARGO: &[(&str, &str)] = &[("CARGO_TARGET_DIR", "{build}"), ("CARGO_PROFILE_TEST_DEBUG", "0")];

/// The extension's own tests are not in Debian's package: this is a session of ours through its whole surface.
fn php_memcached() -> Suite {
    Suite {
        name: "php-memcached (our session)",
        needs: PHP,
        servers: &[ON_THE_USUAL_PORT, "-s {sockets}/php.sock"],
        program: |_| "php".into(),
        arguments: |sources| vec![sources.fill("{ours}/php_session.php"), sources.fill("{sockets}/php.sock")],
        environment: &[],
        folder: "",
        form: Form::Cargo,
        is_crate: false,
        passed_min: 72,
        fails_on_memcached: &[],
        can_lose_a_race: &[],
    }
}
