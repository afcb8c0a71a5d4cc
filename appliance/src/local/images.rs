use anyhow::Context;
use rekindle_repo::{PointListing, Repository};
use serde_json::json;

use crate::{
    config::{RepositoryEntry, RepositoryKind},
    exit::Failure,
};

/// `repo add --images`: looks at what is there and says how it is configured. Makes nothing.
pub(super) fn add(entry: RepositoryEntry, json: bool) -> Result<(), Failure> {
    let entry = RepositoryEntry { kind: Some(RepositoryKind::Images), ..entry };
    let repository = Repository::open_images(entry.location()?)?;
    let place = repository.location();
    let PointListing { points, damaged, .. } = super::block_on(repository.points())??;
    if json {
        let (path, vms) = (place.to_string(), points.len());
        println!(
            "{}",
            json!({ "path": path, "id": repository.id(), "kind": "images", "vms": vms, "damaged": damaged })
        );
        return Ok(());
    }
    for point in &points {
        let disks: Vec<_> = point.disks.iter().map(|disk| disk.source_format.as_str()).collect();
        println!("{}  {}  {}  {}", point.created_at, point.id, point.vm.name, disks.join(", "));
    }
    for one in &damaged {
        println!("not used: {}: {}", one.object, one.reason);
    }
    println!("\n{} VMs in {place}; nothing is written there", points.len());
    println!("add it to the configuration, then restart the appliance:\n");
    print!("[[repository]]\n{}", toml::to_string(&entry).context("write the configuration")?);
    Ok(())
}
