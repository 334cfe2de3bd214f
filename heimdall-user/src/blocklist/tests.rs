#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::answer::hostname::wire;

fn lists(texts: &[(&str, BlockAction)]) -> (Blocklists, Vec<ListReport>) {
    let texts = texts
        .iter()
        .map(|(text, action)| (text.as_bytes(), *action));
    build(texts).unwrap()
}

#[test]
fn both_formats_are_read() {
    let hosts = "# a hosts file\r\n127.0.0.1 localhost\r\n0.0.0.0\tads.example  Banner.example # why\r\n\
                 ::1 ip6-localhost ip6-loopback\n:: six.example\n";
    let domains = "! a list\n\ntracker.example\n  *.star.example.  \nTLD\n_dmarc.under.example\n\
                   two words\n||adblock.example^\nb\u{fc}cher.example\n..\n.\nnothing..here\n";
    let (lists, reports) = lists(&[
        (hosts, BlockAction::Refused),
        (domains, BlockAction::NxDomain),
    ]);
    assert_eq!(reports[0].names, 3);
    assert_eq!(reports[0].skipped, 0);
    assert_eq!(reports[1].names, 4);
    assert_eq!((reports[1].skipped, reports[1].first_skipped), (6, Some(7)));
    for (name, expected) in [
        ("ads.example", Some(BlockAction::Refused)),
        ("ADS.Example", Some(BlockAction::Refused)),
        ("www.ads.example", None),
        ("banner.example", Some(BlockAction::Refused)),
        ("six.example", Some(BlockAction::Refused)),
        ("localhost", None),
        ("tracker.example", Some(BlockAction::NxDomain)),
        ("a.b.tracker.example", Some(BlockAction::NxDomain)),
        ("nottracker.example", None),
        ("tracker.example.com", None),
        ("example", None),
        ("star.example", Some(BlockAction::NxDomain)),
        ("any.star.example", Some(BlockAction::NxDomain)),
        ("some.tld", Some(BlockAction::NxDomain)),
        ("_dmarc.under.example", Some(BlockAction::NxDomain)),
    ] {
        assert_eq!(lists.lookup(&wire_as_is(name)), expected, "{name}");
    }
    assert_eq!(lists.lookup(&[0]), None, "the root");
    assert_eq!(lists.lookup(&[3, b'a']), None, "not a name");
}

/// Lines as real lists have them, with what is taken and whether the line counts as skipped.
#[test]
fn lines_that_are_hard_to_read() {
    for (line, names, skipped) in [
        ("\u{feff}ads.example", &["ads.example"][..], 0),
        ("example.com##.banner", &[], 1),
        ("example.com#@#.banner", &[], 1),
        ("ads.example #why", &["ads.example"], 0),
        ("0.0.0.0 ads.example#why other.example", &["ads.example"], 0),
        (
            "0.0.0.0 ads.example b@d.example other.example",
            &["ads.example", "other.example"],
            1,
        ),
        ("127.0.0.1 LocalHost IP6-loopback LOCAL", &[], 0),
        ("fe80::1%lo0 localhost", &[], 0),
        ("0.0.0.0 0.0.0.0", &[], 0),
        ("192.0.2.1", &[], 1),
        ("192.0.2.1 # why", &[], 1),
        ("https://ads.example/", &[], 1),
        ("*.*.example", &[], 1),
    ] {
        let (lists, reports) = lists(&[(line, BlockAction::NxDomain)]);
        assert_eq!(
            (reports[0].names, reports[0].skipped),
            (names.len(), skipped),
            "{line}"
        );
        for name in names {
            assert_eq!(
                lists.lookup(&wire_as_is(name)),
                Some(BlockAction::NxDomain),
                "{line}"
            );
        }
        assert_eq!(lists.lookup(b"\x09localhost\0"), None, "{line}");
    }
    let latin1 = b"0.0.0.0 ads.example # caf\xe9\n";
    let (_, reports) = build([(&latin1[..], BlockAction::NxDomain)]).unwrap();
    assert_eq!((reports[0].names, reports[0].skipped), (1, 0));
}

fn wire_as_is(name: &str) -> Vec<u8> {
    let mut wire: Vec<u8> = Vec::new();
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

#[test]
fn the_most_specific_name_decides_and_exceptions_come_first() {
    let (lists, _) = lists(&[
        ("bad.example\nboth.example", BlockAction::NxDomain),
        (
            "0.0.0.0 both.example deep.bad.example",
            BlockAction::NullAddress,
        ),
        ("good.bad.example\n", BlockAction::Allow),
        ("worse.good.bad.example\nboth.example", BlockAction::Refused),
        ("0.0.0.0 exempt.both.example\nboth.test", BlockAction::Allow),
        ("both.test", BlockAction::NxDomain),
    ]);
    for (name, expected) in [
        ("bad.example", BlockAction::NxDomain),
        ("x.bad.example", BlockAction::NxDomain),
        ("deep.bad.example", BlockAction::NullAddress),
        ("below.deep.bad.example", BlockAction::NxDomain),
        ("good.bad.example", BlockAction::Allow),
        ("x.good.bad.example", BlockAction::Allow),
        ("x.worse.good.bad.example", BlockAction::Refused),
        ("both.example", BlockAction::NxDomain),
        ("x.both.example", BlockAction::NxDomain),
        ("exempt.both.example", BlockAction::Allow),
        ("below.exempt.both.example", BlockAction::NxDomain),
        ("both.test", BlockAction::Allow),
    ] {
        assert_eq!(
            lists.lookup(&wire(name.as_bytes()).unwrap()),
            Some(expected),
            "{name}"
        );
    }
    assert!(lists.bytes() > 0);
}

#[test]
fn the_line_of_a_name_is_found() {
    let text = b"\xef\xbb\xbf# a list\n0.0.0.0 Exact.example other.example\nexact.example\n*.star.example.\n\
                 exact.example\n";
    for (name, with_below, line) in [
        ("EXACT.example", false, Some(2)),
        ("exact.example", true, Some(3)),
        ("other.example", false, Some(2)),
        ("other.example", true, None),
        ("star.example", true, Some(4)),
        ("example", false, None),
    ] {
        let name_found = find_line(text, &wire_as_is(name), with_below);
        assert_eq!(name_found, line, "{name}");
    }
    assert_eq!(find_line(text, b"\x03ab", false), None);
}

proptest! {
    /// Against a table of names in which every suffix is looked up.
    #[test]
    fn agrees_with_a_plain_table(
        lines in prop::collection::vec(("[ab](\\.[abc]){0,4}", any::<bool>(), 0..4usize), 0..40),
        questions in prop::collection::vec("[abc](\\.[abc]){0,5}", 20),
    ) {
        let texts: Vec<(String, BlockAction)> = lines.iter().map(|(name, exact, action)| {
            let line = if *exact { format!("0.0.0.0 {name}") } else { name.clone() };
            (line, BlockAction::ALL[*action])
        }).collect();
        let texts: Vec<_> = texts.iter().map(|(text, action)| (text.as_str(), *action)).collect();
        let (lists, _) = self::lists(&texts);
        let mut own: HashMap<&str, BlockAction> = HashMap::new();
        let mut below: HashMap<&str, BlockAction> = HashMap::new();
        for (name, exact, action) in &lines {
            let action = BlockAction::ALL[*action];
            let tables = if *exact { vec![&mut own] } else { vec![&mut own, &mut below] };
            for table in tables {
                let entry = table.entry(name).or_insert(action);
                if action == BlockAction::Allow {
                    *entry = action;
                }
            }
        }
        for name in &questions {
            let parents = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
            let expected = own.get(name.as_str()).or_else(|| {
                parents.into_iter().find_map(|parent| below.get(parent))
            });
            prop_assert_eq!(lists.lookup(&wire(name.as_bytes()).unwrap()), expected.copied(), "{}", name);
        }
    }
}
