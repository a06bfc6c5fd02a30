//! OpenSSL's cipher lists, as far as they can mean something here.
//!
//! Six suites of TLS 1.2 and three of TLS 1.3 are served, all with forward secrecy and authenticated encryption. A list
//! chooses among those of TLS 1.2 by name or by word (`ECDHE+AESGCM`, `HIGH:!aNULL`), as it does for OpenSSL. It may
//! name suites of TLS 1.3, too: then only those are served; otherwise all three are.
//!
//! What asks for a suite that is not here is refused, not passed over: who lists ciphers means them. What excludes
//! suites that are not here is satisfied.

use rustls::{CipherSuite, SupportedCipherSuite};

/// A suite, OpenSSL's name for it, and the words that include it.
struct Suite {
    id: CipherSuite,
    name: &'static str,
    words: &'static [&'static str],
}

const fn tls12(id: CipherSuite, name: &'static str, words: &'static [&'static str]) -> Suite {
    Suite { id, name, words }
}

/// In the order in which words choose them: strongest first, as OpenSSL has them.
static TLS12: [Suite; 6] = [
    tls12(
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        &["aECDSA", "ECDSA", "AESGCM", "AES", "AES256", "SHA384"],
    ),
    tls12(
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES256-GCM-SHA384",
        &["aRSA", "AESGCM", "AES", "AES256", "SHA384"],
    ),
    tls12(
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        &["aECDSA", "ECDSA", "CHACHA20"],
    ),
    tls12(
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305",
        &["aRSA", "CHACHA20"],
    ),
    tls12(
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        &["aECDSA", "ECDSA", "AESGCM", "AES", "AES128", "SHA256"],
    ),
    tls12(
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256",
        &["aRSA", "AESGCM", "AES", "AES128", "SHA256"],
    ),
];

/// Words for all of them.
const EVERY: [&str; 9] = ["DEFAULT", "ALL", "HIGH", "FIPS", "ECDHE", "EECDH", "kECDHE", "kEECDH", "TLSv1.2"];

const TLS13: [(CipherSuite, &str); 3] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
];

/// OpenSSL's words for what is not here: to exclude them is to ask for what is so.
const ABSENT: &str = "3DES ADH AECDH AESCCM AESCCM8 ARIA ARIA128 ARIA256 ARIAGCM CAMELLIA CAMELLIA128 CAMELLIA256 \
    COMPLEMENTOFALL COMPLEMENTOFDEFAULT DES DH DHE DSS ECDH EDH EXP EXPORT EXPORT40 EXPORT56 GOST94 GOST89MAC IDEA \
    KRB5 LOW MD5 MEDIUM NULL PSK RC2 RC4 RSA SEED SHA SHA1 SRP SSLv2 SSLv3 TLSv1 TLSv1.0 aDH aDSS aGOST aNULL aPSK \
    aSRP eNULL kDH kDHE kDHEPSK kECDH kECDHEPSK kEDH kGOST kPSK kRSA kRSAPSK kSRP";

/// The suites of `served` that `list` chooses, in its order.
pub(super) fn choose(
    list: &str,
    served: &[SupportedCipherSuite],
) -> Result<Vec<SupportedCipherSuite>, String> {
    let mut chosen = Chosen::default();
    for element in list.split([':', ' ', ';', ',']).filter(|element| !element.is_empty()) {
        chosen.take(element)?;
    }
    if chosen.tls13.is_empty() {
        chosen.tls13.extend(TLS13.iter().map(|(id, _)| *id));
        if chosen.tls12.is_empty() {
            return Err(format!("ssl_ciphers: \"{list}\" leaves no cipher"));
        }
    }
    let ids = chosen.tls13.iter().chain(&chosen.tls12);
    Ok(ids.filter_map(|id| served.iter().find(|suite| suite.suite() == *id).copied()).collect())
}

#[derive(Default)]
struct Chosen {
    tls13: Vec<CipherSuite>,
    tls12: Vec<CipherSuite>,
    /// Never to come back, whatever follows.
    killed: Vec<CipherSuite>,
}

impl Chosen {
    fn take(&mut self, element: &str) -> Result<(), String> {
        // The security level is above every one that OpenSSL's configuration uses; the order is by strength.
        if element == "@STRENGTH" || element.starts_with("@SECLEVEL=") {
            return Ok(());
        }
        if let Some((id, _)) = TLS13.iter().find(|(_, name)| *name == element) {
            if !self.tls13.contains(id) {
                self.tls13.push(*id);
            }
            return Ok(());
        }
        let (sign, words) = match element.split_at_checked(1) {
            Some((sign @ ("!" | "-" | "+"), words)) => (sign, words),
            _ => ("", element),
        };
        let matching = matching(words);
        if matching.is_empty() && (sign.is_empty() || !is_known(words)) {
            return Err(format!("ssl_ciphers: \"{words}\" is no cipher that is served here"));
        }
        match sign {
            "!" => {
                self.tls12.retain(|id| !matching.contains(id));
                self.killed.extend(matching);
            }
            "-" => self.tls12.retain(|id| !matching.contains(id)),
            // To the end.
            "+" => self.tls12.sort_by_key(|id| matching.contains(id)),
            _ => {
                let new = matching.into_iter().filter(|id| !self.killed.contains(id));
                for id in new {
                    if !self.tls12.contains(&id) {
                        self.tls12.push(id);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The suites of TLS 1.2 that have this name, or all of these words, joined by `+`.
fn matching(words: &str) -> Vec<CipherSuite> {
    let has = |suite: &Suite, word: &str| {
        suite.name == word || EVERY.contains(&word) || suite.words.contains(&word)
    };
    TLS12.iter().filter(|suite| words.split('+').all(|word| has(suite, word))).map(|suite| suite.id).collect()
}

/// A name or combination that OpenSSL knows and nothing here matches.
fn is_known(words: &str) -> bool {
    // Names of single suites have a dash.
    words.split('+').any(|word| ABSENT.split_whitespace().any(|known| known == word)) || words.contains('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Result<Vec<&'static str>, String> {
        let served = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
        let chosen = choose(list, served)?;
        let name = |suite: &SupportedCipherSuite| {
            let of_12 = TLS12.iter().find(|known| known.id == suite.suite()).map(|known| known.name);
            of_12.or(TLS13.iter().find(|known| known.0 == suite.suite()).map(|known| known.1)).unwrap()
        };
        Ok(chosen.iter().map(name).collect())
    }

    #[test]
    fn every_suite_is_served() {
        assert_eq!(names("ALL").unwrap().len(), TLS12.len() + TLS13.len());
    }

    #[test]
    fn names_in_their_order_and_all_of_tls13() {
        let chosen = names("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305").unwrap();
        assert_eq!(chosen[3..], ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"]);
        assert_eq!(chosen.len(), 5);
    }

    #[test]
    fn suites_of_tls13_by_name() {
        assert_eq!(names("TLS_AES_128_GCM_SHA256").unwrap(), ["TLS_AES_128_GCM_SHA256"]);
        let both = names("TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES128-GCM-SHA256").unwrap();
        assert_eq!(both, ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]);
    }

    #[test]
    fn words_and_what_they_exclude() {
        assert_eq!(names("HIGH:!aNULL:!MD5").unwrap().len(), 9);
        assert_eq!(names("ECDHE+AESGCM+AES128").unwrap().len(), 3 + 2);
        assert_eq!(names("ALL:-AES128:AES128").unwrap().last(), Some(&"ECDHE-RSA-AES128-GCM-SHA256"));
        assert_eq!(names("ALL:!CHACHA20:CHACHA20").unwrap().len(), 3 + 4);
        assert_eq!(names("ALL:+AES256:!DHE-RSA-AES128-SHA").unwrap()[3], "ECDHE-ECDSA-CHACHA20-POLY1305");
        assert_eq!(names("DEFAULT:@SECLEVEL=2").unwrap().len(), 9);
    }

    #[test]
    fn what_is_not_here_is_refused_by_name() {
        for (list, named) in [
            ("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA", "AES128-SHA"),
            ("fooble", "fooble"),
            ("ALL:!fooble", "fooble"),
            ("RC4", "RC4"),
            ("ALL:!ALL", "leaves no cipher"),
            ("", "leaves no cipher"),
        ] {
            assert!(names(list).unwrap_err().contains(named), "{list}");
        }
    }
}
