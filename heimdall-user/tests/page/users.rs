//! Narrow screens, long names, themes, keys and screen readers.

use lab::{Browser, Sample};
use serde_json::json;

use crate::{SAMPLE, VIEWS, Viewer};

#[test]
fn many_queues_and_long_names_fit_into_narrow_screens() {
    if !Browser::available("many_queues_and_long_names_fit_into_narrow_screens") {
        return;
    }
    let long = format!("{}.example.", vec!["x".repeat(60); 4].join("."));
    let mut findings = Sample::findings();
    findings[1]["fix"] = json!(long.repeat(3));
    findings[1]["finding"] = json!(long);
    let mut configuration = Sample::configuration();
    configuration["listen"] = vec![json!(long); 20].into();
    let mut viewer = Viewer::with(&configuration, &findings);
    let sample = Sample {
        interfaces: 2,
        queues: 64,
        uptime: 0,
    };
    for uptime in [100, 101] {
        let mut document = Sample { uptime, ..sample }.document();
        document["popular"]["names"][0]["name"] = json!(long);
        document["popular"]["clients"][0]["name"] = json!(long);
        document["upstreams"][0]["address"] = json!(long);
        document["interfaces"][0]["name"] = json!("a-very-long-if0");
        document["workers"][5]["state"] = json!("restarting");
        document["workers"][5]["reason"] = json!(long);
        document["build"]["version"] = json!("0.1.0-with-a-long-suffix+of.the.build.that.made.it");
        viewer.send(&document);
    }
    assert_eq!(viewer.rows("Queues").len(), 128);
    assert!(
        viewer
            .text("document.body.innerText")
            .contains("128 on 2 interfaces, 1 not running")
    );
    for (width, height) in [(360, 640), (768, 1024), (1280, 900), (2560, 1300)] {
        viewer.browser.resize(width, height).unwrap();
        for view in VIEWS {
            viewer.view(view);
            viewer.wait_for("!document.body.innerText.includes('Loading')");
            let wide = viewer.value("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64() <= Some(width.into()),
                "{view} at {width}: {wide}"
            );
        }
    }
    // A long name breaks; it does not push the numbers out of sight.
    viewer.browser.resize(360, 640).unwrap();
    viewer.view("overview");
    let table = "document.querySelector('table[aria-label=\"Popular names\"]').parentNode";
    viewer.wait_for(&format!("{table}.scrollWidth <= {table}.clientWidth"));
    viewer.assert_no_problems();
}

/// The lowest contrast (WCAG 2, section 1.4.3) of text colours against the grounds that they are used on.
const CONTRAST: &str = "(() => {
  const parts = colour => { const probe = document.body.appendChild(document.createElement('i')); probe.style.color = colour;
    const found = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number); probe.remove(); return found; };
  const light = colour => { const [r, g, b] = parts(colour).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [high, low] = [light(a), light(b)].sort((a, b) => b - a); return (high + 0.05) / (low + 0.05); };
  return Math.min(...['text', 'quiet', 'accent', 'good', 'warn', 'bad'].flatMap(text => ['ground', 'card'].map(ground => contrast(`var(--${text})`, `var(--${ground})`))));
})()";

#[test]
fn themes_follow_the_system_and_the_button() {
    let Some(mut viewer) = Viewer::open("themes_follow_the_system_and_the_button") else {
        return;
    };
    viewer.show(SAMPLE, [100]);
    let ground = "getComputedStyle(document.body).backgroundColor";
    let (light, dark) = ("rgb(245, 246, 248)", "rgb(15, 19, 24)");
    for (system, colour) in [("light", light), ("dark", dark)] {
        viewer
            .browser
            .prefer("prefers-color-scheme", system)
            .unwrap();
        assert_eq!(viewer.text(ground), colour);
        let contrast = viewer.value(CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{system}: {contrast}");
    }
    // The system's is dark now.
    for (theme, colour) in [
        ("light", light),
        ("dark", dark),
        ("system", dark),
        ("light", light),
    ] {
        viewer.browser.press("t").unwrap();
        assert_eq!(
            viewer.text("document.getElementById('theme').textContent"),
            format!("Theme: {theme}")
        );
        assert_eq!(viewer.text(ground), colour);
    }
    // It is kept.
    let url = viewer.server.url();
    viewer.browser.navigate(&url).unwrap();
    viewer.wait_for("newest === null && document.documentElement.dataset.theme === 'light'");

    let moves = "getComputedStyle(document.querySelector('.view')).transitionDuration";
    assert_ne!(viewer.text(moves), "0s");
    viewer
        .browser
        .prefer("prefers-reduced-motion", "reduce")
        .unwrap();
    assert_eq!(viewer.text(moves), "0s");
    viewer.assert_no_problems();
}

#[test]
fn keys_and_screen_readers_reach_everything() {
    let Some(mut viewer) = Viewer::open("keys_and_screen_readers_reach_everything") else {
        return;
    };
    viewer.show(SAMPLE, [100, 101]);
    viewer.wait_for("document.getElementById('doctor-count').textContent !== ''");
    let focused = "document.activeElement.textContent.trim()";
    // The first of all is the way past the head; then its buttons and views, each with a visible focus.
    let mut order = Vec::new();
    for _ in 0..8 {
        viewer.browser.press("Tab").unwrap();
        order.push(viewer.text(focused));
        let outline = viewer.text("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(outline, "solid", "{order:?}");
    }
    let views = ["Overview", "Configuration", "Doctor 1 bad", "All values"];
    let expected = [
        &["Skip to the content", "Pause", "Theme: system", "?"][..],
        &views,
    ]
    .concat();
    assert_eq!(order, expected);
    viewer.browser.press("Enter").unwrap();
    viewer.wait_for("view === 'values'");
    assert_eq!(
        viewer.text("document.querySelector('[aria-current=page]').textContent"),
        "All values"
    );
    for (key, view) in ["1", "2", "3", "4"].into_iter().zip(VIEWS) {
        viewer.browser.press(key).unwrap();
        viewer.wait_for(&format!("view === '{view}'"));
    }
    // Keys are text where one types.
    viewer.browser.press("/").unwrap();
    for key in ["p", "1", "?"] {
        viewer.browser.press(key).unwrap();
    }
    assert_eq!(viewer.text("document.activeElement.value"), "p1?");
    assert_eq!(viewer.text("view"), "values");
    viewer.value("document.activeElement.blur()");
    viewer.browser.press("?").unwrap();
    viewer.wait_for("document.getElementById('help').open");
    viewer.browser.press("p").unwrap();
    viewer.browser.press("Escape").unwrap();
    viewer.wait_for("!document.getElementById('help').open");
    assert_eq!(
        viewer.value("paused"),
        json!(false),
        "the dialog has the keys"
    );

    for (what, number) in [
        ("header", 1),
        ("nav[aria-label]", 1),
        ("main", 1),
        ("footer", 1),
        ("h1", 1),
        // Read out when they change: the state of the connection, and notices.
        ("[role=status]", 2),
        ("[aria-live]", 0),
        ("html[lang=en]", 1),
    ] {
        let found = viewer.value(&format!("document.querySelectorAll('{what}').length"));
        assert_eq!(found, json!(number), "{what}");
    }
    for (what, exceptions) in [
        (
            "tables without a name",
            "[...document.querySelectorAll('main table')].filter(table => !table.getAttribute('aria-label'))",
        ),
        (
            "columns without a head",
            "[...document.querySelectorAll('main thead th')].filter(head => head.scope !== 'col' || !head.textContent)",
        ),
        (
            "rows without a head",
            "[...document.querySelectorAll('tbody tr')].filter(row => row.cells[0].scope !== 'row')",
        ),
        (
            "nameless controls",
            "[...document.querySelectorAll('button, input, svg')].filter(one => !one.textContent && !one.getAttribute('aria-label') && !one.closest('label'))",
        ),
        (
            "numbers that are not right-aligned",
            "[...document.querySelectorAll('td.num')].filter(cell => getComputedStyle(cell).textAlign !== 'right')",
        ),
    ] {
        let found = viewer.value(&format!("{exceptions}.map(element => element.outerHTML)"));
        assert_eq!(found, json!([]), "{what}");
    }
    // The state is set only when it changes: it would be read out each second.
    viewer.value(
        "window.changes = 0; new MutationObserver(() => window.changes++).observe(document.getElementById('state-text'), \
         { childList: true, characterData: true, subtree: true })",
    );
    viewer.show(SAMPLE, 102..106);
    assert_eq!(viewer.value("window.changes"), json!(0));
    viewer.assert_no_problems();
}
