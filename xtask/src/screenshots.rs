//! `cargo xtask screenshots`: the pictures of the status page in docs/.

use std::fs;

use anyhow::{Result, ensure};
use clap::Args;
use lab::{Browser, Sample, StatusServer};

use crate::{
    setup::{BROWSER, Setup},
    workspace,
};

/// Seconds of the charts.
const SPAN: u32 = 300;
/// Most octets of a picture: they are part of every clone of the repository.
const MOST: usize = 150_000;

#[derive(Args)]
#[command(after_help = "\
Chromium opens the page of heimdall-user/src/http, which gets documents of an imagined server.")]
pub(crate) struct Screenshots {}

struct Picture {
    file: &'static str,
    view: &'static str,
    theme: &'static str,
    size: (u32, u32),
}

const PICTURES: &[Picture] = &[
    Picture {
        file: "page-light.png",
        view: "overview",
        theme: "light",
        size: (1200, 880),
    },
    Picture {
        file: "page-dark.png",
        view: "overview",
        theme: "dark",
        size: (1200, 880),
    },
    Picture {
        file: "page-doctor.png",
        view: "doctor",
        theme: "light",
        size: (1000, 420),
    },
    Picture {
        file: "page-narrow.png",
        view: "overview",
        theme: "light",
        size: (360, 740),
    },
];

impl Screenshots {
    pub(crate) fn run(self, setup: Setup) -> Result<()> {
        setup.packages(&[BROWSER])?;
        let page = workspace().join("heimdall-user/src/http/page.html");
        let server = StatusServer::start(&fs::read_to_string(page)?)?;
        server.set("/config.json", &Sample::configuration());
        server.set("/doctor.json", &Sample::findings());
        let mut browser = Browser::open(&server.url())?;
        browser.wait_for("source.readyState === EventSource.OPEN")?;
        browser.hide_scrollbars()?;
        let mut sample = Sample {
            interfaces: 1,
            queues: 4,
            uptime: 0,
        };
        for _ in 0..SPAN {
            sample.uptime += 1;
            server.send(&sample.document());
        }
        for picture in PICTURES {
            browser.prefer("prefers-color-scheme", picture.theme)?;
            browser.resize(picture.size.0, picture.size.1)?;
            browser.evaluate(&format!("location.hash = '{}'", picture.view))?;
            browser.wait_for(&format!("view === '{}'", picture.view))?;
            browser.wait_for("!$('doctor-about').textContent.startsWith('Loading')")?;
            // Without a document for some seconds, the page says that the connection is lost.
            sample.uptime += 1;
            server.send(&sample.document());
            browser.wait_for(&format!("current?.doc.uptime === {}", sample.uptime))?;
            let octets = browser.screenshot()?;
            ensure!(
                octets.len() < MOST,
                "{}: {} octets",
                picture.file,
                octets.len()
            );
            println!("docs/{}: {} octets", picture.file, octets.len());
            fs::write(workspace().join("docs").join(picture.file), octets)?;
        }
        Ok(())
    }
}
