use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use jiff::Timestamp;
use rekindle_repo::{Attached, PointListing, PointManifest, RepoError};
use serde::{Deserialize, Serialize};

use crate::{Console, Problem, auth::Caller, users::Scope};

/// The most points in one answer: at about 500 bytes each, 2.5 MiB.
const POINTS_MAX: usize = 5000;
/// What one repository may take for its list; the others' are shown without it.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// Which points are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    repository: Option<String>,
    vm: Option<String>,
    /// Those that a prune has let go, instead of those that stay.
    #[serde(default)]
    condemned: bool,
}

#[derive(Serialize)]
pub(crate) struct Points {
    points: Vec<PointView>,
    /// Matching points that are older than the ones shown.
    left_out: usize,
    /// What could not be read. It hides nothing else.
    problems: Vec<Damage>,
}

#[derive(Serialize)]
struct PointView {
    repository: String,
    id: String,
    vm: VmView,
    created_at: Timestamp,
    size_bytes: u64,
    stored_bytes: u64,
    disks: Vec<DiskView>,
    tags: Vec<String>,
    /// From when on a prune deletes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    goes_after: Option<Timestamp>,
}

#[derive(Serialize)]
struct VmView {
    id: String,
    name: String,
}

#[derive(Serialize)]
struct DiskView {
    key: String,
    file_name: String,
    format: String,
    size_bytes: u64,
    stored_bytes: u64,
}

/// Something in a repository that could not be listed.
#[derive(Serialize)]
pub(crate) struct Damage {
    repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    detail: String,
}

/// `GET /api/v1/points`
pub(crate) async fn points(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    selection: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Points>, Problem> {
    let Query(selection) = selection?;
    let mut found = Points { points: Vec::new(), left_out: 0, problems: Vec::new() };
    for (name, repository) in selected(&console, &caller.scope, selection.repository.as_deref())? {
        let _permit = console.listings.acquire().await.map_err(|e| Problem::internal(&e))?;
        list(name, repository, &selection, &mut found).await;
    }
    found.points.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
    found.left_out = found.points.len().saturating_sub(POINTS_MAX);
    found.points.truncate(POINTS_MAX);
    Ok(Json(found))
}

fn selected<'a>(
    console: &'a Console,
    scope: &Scope,
    wanted: Option<&'a str>,
) -> Result<Vec<(&'a str, &'a Attached)>, Problem> {
    let all = console.repositories.iter().filter(|(name, _)| scope.has_repository(name));
    let Some(wanted) = wanted else {
        return Ok(all.map(|(name, repository)| (name.as_str(), repository)).collect());
    };
    let (_, repository) = all
        .into_iter()
        .find(|(name, _)| *name == wanted)
        .ok_or_else(|| Problem::not_found(format!("there is no repository {wanted:?}")))?;
    Ok(vec![(wanted, repository)])
}

async fn list(name: &str, attached: &Attached, selection: &Selection, found: &mut Points) {
    let listing = async { attached.get()?.points().await };
    let detail = match tokio::time::timeout(LISTED_WITHIN, listing).await {
        Ok(Ok(listing)) => return add(name, listing, selection, found),
        Ok(Err(error @ RepoError::Unavailable { .. })) => {
            attached.attachment().reason.unwrap_or_else(|| error.to_string())
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not tell its points in {} s", LISTED_WITHIN.as_secs()),
    };
    found.problems.push(Damage { repository: name.to_owned(), name: None, detail });
}

fn add(name: &str, listing: PointListing, selection: &Selection, found: &mut Points) {
    let wanted = |point: &PointManifest| {
        let vm = selection.vm.as_deref();
        vm.is_none_or(|vm| point.vm.name == vm || point.vm.id.as_str() == vm)
    };
    if selection.condemned {
        let points = listing.condemned.iter().filter(|one| wanted(&one.point));
        found.points.extend(points.map(|one| view(name, &one.point, Some(one.goes_after))));
        return;
    }
    let points = listing.points.iter().filter(|point| wanted(point));
    found.points.extend(points.map(|point| view(name, point, None)));
    found.problems.extend(listing.damaged.iter().map(|damaged| Damage {
        repository: name.to_owned(),
        name: Some(damaged.object.clone()),
        detail: damaged.reason.clone(),
    }));
}

fn view(repository: &str, point: &PointManifest, goes_after: Option<Timestamp>) -> PointView {
    let disks: Vec<_> = point
        .disks
        .iter()
        .map(|disk| DiskView {
            key: disk.key.clone(),
            file_name: disk.file_name.clone(),
            format: disk.source_format.clone(),
            size_bytes: disk.size_bytes,
            stored_bytes: disk.stored_bytes,
        })
        .collect();
    PointView {
        repository: repository.to_owned(),
        id: point.id.to_string(),
        vm: VmView { id: point.vm.id.to_string(), name: point.vm.name.clone() },
        created_at: point.created_at,
        size_bytes: point.size_bytes(),
        stored_bytes: disks.iter().map(|disk| disk.stored_bytes).sum(),
        disks,
        tags: point.tags.clone(),
        goes_after,
    }
}
