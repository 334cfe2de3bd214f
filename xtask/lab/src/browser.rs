//! A headless Chromium with one page, driven over its DevTools protocol.
//!
//! The protocol goes through two pipes (`--remote-debugging-pipe`), one JSON message and a NUL octet at a
//! time, so it needs neither a port nor WebSockets. Methods and events are those of
//! <https://chromedevtools.github.io/devtools-protocol/>.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::die_with_parent;

/// Debian's program, from the package chromium.
const PROGRAM: &str = "/usr/bin/chromium";
/// How long an answer of the browser, or a condition on the page, may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A browser that shows a page. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    /// The number of the last command.
    number: u64,
    /// The session with the page.
    session: Option<String>,
    problems: Vec<String>,
    log: fs::File,
    _profile: TempDir,
}

impl Browser {
    /// Whether a test that needs a browser can run. Without Chromium it says that it is skipped, and in CI,
    /// where nothing may be, it panics.
    ///
    /// # Panics
    /// In CI without Chromium.
    pub fn available(test: &str) -> bool {
        let exists = Path::new(PROGRAM).exists();
        if !exists {
            assert!(env::var_os("CI").is_none(), "{test}: CI needs {PROGRAM}");
            let _ = writeln!(
                io::stderr(),
                "SKIPPED {test}: it needs {PROGRAM}, from the package chromium"
            );
        }
        exists
    }

    /// Starts a browser and opens a page in it, in a view of 1280 × 900 pixels.
    ///
    /// # Errors
    /// Chromium is not installed or does not start.
    pub fn open(url: &str) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let log = tempfile::tempfile()?;
        let mut command = Command::new("sh");
        command
            // The protocol's pipes are the descriptors 3 and 4.
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#, PROGRAM])
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // Root has no sandbox; the page is the project's own.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-breakpad",
                "--disable-dev-shm-usage",
                "--force-color-profile=srgb",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?);
        die_with_parent(&mut command);
        let mut child = command.spawn().context("cannot run sh")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = child.stdout.take().context("no pipe")?;
        let (sender, messages) = mpsc::channel();
        // Ends with the browser, which closes the pipe.
        thread::spawn(move || {
            for message in BufReader::new(output).split(0) {
                let Ok(octets) = message else { return };
                let Ok(message) = serde_json::from_slice(&octets) else {
                    return;
                };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            input,
            messages,
            number: 0,
            session: None,
            problems: Vec::new(),
            log,
            _profile: profile,
        };
        let created = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let target = json!({ "targetId": created["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", target)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}))?;
        }
        browser.resize(1280, 900)?;
        browser.navigate(url)?;
        Ok(browser)
    }

    /// Opens another page.
    pub fn navigate(&mut self, url: &str) -> Result<()> {
        let reply = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = reply["errorText"].as_str() {
            bail!("cannot open {url}: {error}");
        }
        Ok(())
    }

    /// The value of a JavaScript expression; of a promise, what it becomes.
    ///
    /// # Errors
    /// The expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({
            "expression": expression,
            "returnByValue": true,
            "awaitPromise": true,
            "userGesture": true,
        });
        let mut reply = self.call("Runtime.evaluate", parameters)?;
        if let Some(error) = reply.get("exceptionDetails") {
            bail!("{expression}: {error}");
        }
        Ok(reply["result"]["value"].take())
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Errors
    /// It is not within 30 s; the error has the page's text.
    pub fn wait_for(&mut self, expression: &str) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            // While a page is loaded, what the expression names may not exist yet.
            let value = self.evaluate(expression);
            if matches!(value, Ok(Value::Bool(true))) {
                return Ok(());
            }
            if Instant::now() >= end {
                let text = self.evaluate("document.body.innerText")?;
                let text = text.as_str().unwrap_or_default();
                let problems = self.problems()?.join("\n");
                bail!("{expression} is {value:?}; problems: {problems}; the page:\n{text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses and releases a key, named as in the DOM: `p`, `?`, `Tab`.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            _ => 0,
        };
        let typed = match key {
            "Enter" => "\r",
            _ if key.chars().count() == 1 => key,
            _ => "",
        };
        for kind in ["keyDown", "keyUp"] {
            let typed = if kind == "keyDown" { typed } else { "" };
            let event =
                json!({ "type": kind, "key": key, "text": typed, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event)?;
        }
        Ok(())
    }

    /// Sets the size of the view, in pixels.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        Ok(())
    }

    /// Sets a preference of the user's, such as `prefers-color-scheme`.
    pub fn prefer(&mut self, feature: &str, value: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": feature, "value": value }] });
        self.call("Emulation.setEmulatedMedia", features)?;
        Ok(())
    }

    /// Leaves scroll bars out of views that are resized from now on.
    pub fn hide_scrollbars(&mut self) -> Result<()> {
        let hidden = json!({ "hidden": true });
        self.call("Emulation.setScrollbarsHidden", hidden)?;
        Ok(())
    }

    /// A picture of the view, in PNG.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        // What was changed before is drawn in the frame after the next one.
        self.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))",
        )?;
        let picture = json!({ "format": "png", "optimizeForSpeed": false });
        let reply = self.call("Page.captureScreenshot", picture)?;
        let data = reply["data"].as_str().context("no picture")?;
        Ok(BASE64.decode(data.as_bytes())?)
    }

    /// What the page has done wrong so far: uncaught exceptions and errors in the console, among them what its
    /// content security policy forbids.
    pub fn problems(&mut self) -> Result<Vec<String>> {
        // Events before the reply have been read with it.
        self.evaluate("0")?;
        Ok(self.problems.clone())
    }

    /// Sends a command, and waits for its result.
    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let mut octets = command.to_string().into_bytes();
        octets.push(0);
        if let Err(error) = self.input.write_all(&octets) {
            bail!("{method}: {error}; Chromium says:\n{}", self.output());
        }
        loop {
            let Ok(mut message) = self.messages.recv_timeout(LIMIT) else {
                bail!("{method}: no reply; Chromium says:\n{}", self.output());
            };
            if message["id"] == self.number {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].take());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let problem = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &parameters["exceptionDetails"],
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                &parameters["entry"]
            }
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => parameters,
            _ => return,
        };
        self.problems.push(problem.to_string());
    }

    /// What it has written to its log.
    fn output(&mut self) -> String {
        let mut text = Vec::new();
        let _ = self.log.rewind();
        let _ = self.log.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end with it, if it may end in order.
        let _ = self
            .input
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
