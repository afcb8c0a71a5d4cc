use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use jiff::Timestamp;
use rekindle_repo::{
    Attached, Badge, CheckDepth, PointId, PointListing, PointManifest, RepoError, Repository, Tier,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Console, Problem,
    auth::Caller,
    paging::{self, Place},
    users::Scope,
};

/// The most points in one answer: at about 500 bytes each, 2.5 MiB.
const POINTS_MAX: usize = 5000;
/// What one repository may take for its list, and again for what is told of its points; the others' are shown without it.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// Which points are wanted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    repository: Option<String>,
    vm: Option<String>,
    /// Those that a prune has let go, instead of those that stay.
    #[serde(default)]
    condemned: bool,
    /// Those of which the last check found this.
    check: Option<Found>,
    /// The most points in the answer.
    #[schemars(range(min = 1, max = POINTS_MAX))]
    limit: Option<usize>,
    /// What `next` was in the answer before; the newest points when absent.
    cursor: Option<String>,
}

/// What the last check of a point found.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Found {
    Sound,
    Damaged,
    Unchecked,
}

impl Found {
    fn is(self, badge: Option<&BadgeView>) -> bool {
        match self {
            Self::Sound => badge.is_some_and(|badge| badge.sound),
            Self::Damaged => badge.is_some_and(|badge| !badge.sound),
            Self::Unchecked => badge.is_none(),
        }
    }
}

#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct Points {
    points: Vec<PointView>,
    /// Matching points that are older than the ones shown.
    left_out: usize,
    /// What to ask for as `cursor` for the next part; none if this is the last.
    next: Option<String>,
    /// What could not be read. It hides nothing else.
    problems: Vec<Damage>,
}

#[derive(Serialize, JsonSchema)]
struct PointView {
    repository: String,
    id: String,
    vm: VmView,
    created_at: Timestamp,
    size_bytes: u64,
    stored_bytes: u64,
    disks: Vec<DiskView>,
    tags: Vec<String>,
    /// What the last check of it found; none if there was none.
    check: Option<BadgeView>,
    /// Where its coldest pack is; none while that is not known.
    tier: Option<Tier>,
    /// From when on a prune deletes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    goes_after: Option<Timestamp>,
    /// Whether it is in the hot copy of its repository.
    hot_copy: bool,
}

#[derive(Serialize, JsonSchema)]
struct BadgeView {
    checked_at: Timestamp,
    depth: CheckDepth,
    sound: bool,
    problems: u64,
}

impl From<Badge> for BadgeView {
    fn from(badge: Badge) -> Self {
        let sound = badge.is_sound();
        let Badge { checked_at, depth, problems } = badge;
        Self { checked_at, depth, sound, problems }
    }
}

#[derive(Serialize, JsonSchema)]
struct VmView {
    id: String,
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct DiskView {
    key: String,
    file_name: String,
    format: String,
    size_bytes: u64,
    stored_bytes: u64,
}

/// Something in a repository that could not be listed.
#[derive(Serialize, JsonSchema)]
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
    let limit = paging::limit(selection.limit, POINTS_MAX)?;
    let mut found = Points::default();
    for (name, repository) in selected(&console, &caller.scope, selection.repository.as_deref())? {
        let _permit = console.listings.acquire().await.map_err(|e| Problem::internal(&e))?;
        list(name, repository, &selection, &mut found).await;
    }
    let place =
        |one: &PointView| Place::new(one.created_at, format!("{} {}", one.id, one.repository));
    let points = std::mem::take(&mut found.points);
    let part = paging::part(points, (selection.cursor.as_deref(), limit), place)?;
    (found.points, found.next, found.left_out) = (part.entries, part.next, part.left_out);
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
    let listing = async {
        let repository = attached.get()?;
        Ok((repository.points().await?, repository))
    };
    let detail = match tokio::time::timeout(LISTED_WITHIN, listing).await {
        Ok(Ok((listing, repository))) => {
            return add((name, &repository), listing, selection, found).await;
        }
        Ok(Err(error @ RepoError::Unavailable { .. })) => {
            attached.attachment().reason.unwrap_or_else(|| error.to_string())
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => late("points"),
    };
    found.problems.push(damage(name, detail));
}

async fn add(
    (name, repository): (&str, &Repository),
    listing: PointListing,
    selection: &Selection,
    found: &mut Points,
) {
    let (wanted, problems) = match selection.condemned {
        true => {
            let points = listing.condemned.into_iter();
            let points = points.map(|one| (one.point, Some(one.goes_after)));
            (points.collect::<Vec<_>>(), Vec::new())
        }
        false => (listing.points.into_iter().map(|point| (point, None)).collect(), listing.damaged),
    };
    let vm = selection.vm.as_deref();
    let of_vm = |point: &PointManifest| {
        vm.is_none_or(|vm| point.vm.name == vm || point.vm.id.as_str() == vm)
    };
    let wanted: Vec<_> = wanted.into_iter().filter(|(point, _)| of_vm(point)).collect();
    let manifests: Vec<_> = wanted.iter().map(|(point, _)| point.clone()).collect();
    // Points are shown without what cannot be told of them.
    let (badges, tiers, hot) = tokio::join!(
        told("checks", repository.badges()),
        told("tiers", repository.tiers(&manifests)),
        hot_points(repository)
    );
    let mut problem = |detail| found.problems.push(damage(name, detail));
    let mut badges = badges.unwrap_or_else(|detail| {
        problem(detail);
        BTreeMap::new()
    });
    let mut tiers = tiers.unwrap_or_else(|detail| {
        problem(detail);
        BTreeMap::new()
    });
    for (point, goes_after) in wanted {
        let check = badges.remove(&point.id).map(BadgeView::from);
        if selection.check.is_none_or(|wanted| wanted.is(check.as_ref())) {
            let tier = tiers.remove(&point.id);
            let hot_copy = hot.contains(&point.id);
            let view = PointView { check, tier, goes_after, hot_copy, ..view(name, &point) };
            found.points.push(view);
        }
    }
    found.problems.extend(problems.into_iter().map(|damaged| Damage {
        repository: name.to_owned(),
        name: Some(damaged.object),
        detail: damaged.reason,
    }));
}

async fn hot_points(repository: &Repository) -> BTreeSet<PointId> {
    let repository = repository.clone();
    let found = tokio::task::spawn_blocking(move || rekindle_repo::hot_points(&repository)).await;
    // A hot copy that cannot be listed is not read either.
    found.ok().and_then(Result::ok).unwrap_or_default()
}

/// Something of each point, or why it cannot be told.
async fn told<V>(
    what: &str,
    asked: impl Future<Output = Result<BTreeMap<PointId, V>, RepoError>>,
) -> Result<BTreeMap<PointId, V>, String> {
    match tokio::time::timeout(LISTED_WITHIN, asked).await {
        Ok(told) => told.map_err(|error| error.to_string()),
        Err(_) => Err(late(what)),
    }
}

fn late(what: &str) -> String {
    format!("it did not tell its {what} in {} s", LISTED_WITHIN.as_secs())
}

fn damage(repository: &str, detail: String) -> Damage {
    Damage { repository: repository.to_owned(), name: None, detail }
}

fn view(repository: &str, point: &PointManifest) -> PointView {
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
        check: None,
        tier: None,
        goes_after: None,
        hot_copy: false,
    }
}
