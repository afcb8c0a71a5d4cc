//! A whole recovery against a server and an NFS export: mount, register, power on, migrate, clean up.
//! Every call is made twice, as a job does that was cut off between a step and its record.
//!
//! `walk URL THUMBPRINT NFSHOST:/EXPORT DIR/VM.vmx [DATASTORE]`, password in `VSPHERE_PASSWORD`, user in
//! `VSPHERE_USER`. With a vCenter and a DATASTORE the VM ends there, running; otherwise it is powered
//! off and unregistered. `WALK_HOST` names the host, otherwise it is the last one. A THUMBPRINT of `-` is for plain HTTP on loopback.

use std::{
    env,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rekindle_vsphere::{
    Endpoint, Host, NasExport, PowerState, Secret, Trust, UuidPolicy, Vm, Vsphere, VsphereError,
};

struct Walk {
    vsphere: Vsphere,
    host: Host,
    export: NasExport,
    since: Instant,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [url, thumbprint, export, vmx, rest @ ..] = &args[..] else {
        anyhow::bail!("usage: walk URL THUMBPRINT|- NFSHOST:/EXPORT DIR/VM.vmx [DATASTORE]");
    };
    let (remote_host, remote_path) = export.split_once(':').context("NFSHOST:/EXPORT")?;
    let export = NasExport {
        remote_host: remote_host.into(),
        remote_path: remote_path.into(),
        name: "rekindle-walk".into(),
    };
    let vsphere = Vsphere::connect(endpoint(url, thumbprint)?).await?;
    println!("{} ({})", vsphere.about().full_name, vsphere.about().api_type);
    let host = match env::var("WALK_HOST") {
        Ok(name) => vsphere.find_host(Some(&name)).await?,
        Err(_) => vsphere.hosts().await?.pop().context("no host")?,
    };
    println!("host {}, seen at {:?}", host.name, host.addresses);
    let walk = Walk { vsphere, host, export, since: Instant::now() };
    let vm = walk.start(vmx).await?;
    match rest.first() {
        Some(datastore) if walk.vsphere.is_vcenter() => walk.migrate(&vm, datastore).await?,
        _ => walk.discard(&vm).await?,
    }
    walk.clean_up(&vm).await
}

fn endpoint(url: &str, thumbprint: &str) -> Result<Endpoint> {
    let user = env::var("VSPHERE_USER").unwrap_or_else(|_| "administrator@vsphere.local".into());
    let password = env::var("VSPHERE_PASSWORD").unwrap_or_else(|_| "vcsim-pass".into());
    let mut endpoint = Endpoint::new(url, user, Secret::new(password));
    if thumbprint != "-" {
        endpoint.trust = Trust::Thumbprint(thumbprint.parse()?);
    }
    Ok(endpoint)
}

impl Walk {
    fn tell(&self, what: &str) {
        println!("{:8.3} s  {what}", self.since.elapsed().as_secs_f64());
    }

    /// Until the VM runs from the export.
    async fn start(&self, vmx: &str) -> Result<Vm> {
        let (vsphere, host) = (&self.vsphere, &self.host.id);
        let mounted = vsphere.ensure_nas_datastore(host, &self.export).await?;
        ensure!(mounted.accessible && mounted.capacity_bytes > 0, "it is not accessible");
        let again = vsphere.ensure_nas_datastore(host, &self.export).await?;
        ensure!(again.id == mounted.id, "mounted twice");
        self.tell("mounted");
        let path = format!("[{}] {vmx}", mounted.name);
        let vm = vsphere.ensure_registered(host, &path, "walk").await?;
        let again = vsphere.ensure_registered(host, &path, "walk").await?;
        ensure!(again.id == vm.id, "registered twice");
        let found =
            vsphere.find_vm_by_path(host, &path).await?.context("it is not found by its path")?;
        ensure!(found.id == vm.id && found.name == "walk", "another is found by its path");
        self.tell("registered");
        vsphere.power_on(&vm.id, UuidPolicy::Moved).await?;
        vsphere.power_on(&vm.id, UuidPolicy::Moved).await?;
        let view = vsphere.vm(&vm.id).await?;
        ensure!(
            view.power == PowerState::On && view.vmx_path == path && view.question.is_none(),
            "{view:?}"
        );
        self.tell("powered on");
        let busy = vsphere.remove_nas_datastore(host, &self.export, Duration::ZERO).await;
        ensure!(
            matches!(&busy, Err(VsphereError::Refused { fault, .. }) if fault == "ResourceInUse"),
            "a datastore in use is to be refused, not {busy:?}"
        );
        Ok(vm)
    }

    async fn migrate(&self, vm: &Vm, datastore: &str) -> Result<()> {
        let (vsphere, host) = (&self.vsphere, &self.host.id);
        let to = vsphere.find_datastore(host, datastore).await?;
        let percent = AtomicU8::new(0);
        let progress = |p: u8| percent.store(p, Ordering::Relaxed);
        vsphere.relocate(&vm.id, &to.id, Duration::from_secs(600), progress).await?;
        vsphere.relocate(&vm.id, &to.id, Duration::from_secs(600), progress).await?;
        ensure!(percent.load(Ordering::Relaxed) > 0, "it showed no progress");
        let left = vsphere.vm_datastores(&vm.id).await?;
        ensure!(left.len() == 1 && left[0].id == to.id, "it is still on {left:?}");
        ensure!(vsphere.power_state(&vm.id).await? == PowerState::On, "it does not run any more");
        self.tell("migrated, and it still runs");
        Ok(())
    }

    async fn discard(&self, vm: &Vm) -> Result<()> {
        for _ in 0..2 {
            self.vsphere.power_off(&vm.id).await?;
        }
        self.tell("powered off");
        for _ in 0..2 {
            self.vsphere.unregister(&vm.id).await?;
        }
        let gone = self.vsphere.vm(&vm.id).await;
        ensure!(matches!(gone, Err(VsphereError::NotFound { .. })), "it is still there: {gone:?}");
        self.tell("unregistered");
        Ok(())
    }

    async fn clean_up(&self, vm: &Vm) -> Result<()> {
        for _ in 0..2 {
            self.vsphere
                .remove_nas_datastore(&self.host.id, &self.export, Duration::from_secs(30))
                .await?;
        }
        let left = self.vsphere.datastores(&self.host.id).await?;
        ensure!(left.iter().all(|d| d.name != self.export.name), "the datastore is still there");
        self.tell("unmounted");
        if let Ok(view) = self.vsphere.vm(&vm.id).await {
            println!("{} runs at {}", view.name, view.vmx_path);
        }
        self.vsphere.log_out().await?;
        Ok(())
    }
}
