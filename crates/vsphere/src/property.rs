//! The property collector: reading objects, and waiting until they change.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    error::Failure,
    moref::MoRef,
    session::Session,
    soap::Request,
    xml::{Element, Writer},
};

/// Objects in one page of an answer.
const PAGE: usize = 100;

/// Objects in one listing: a vCenter manages at most 2 500 hosts and 45 000 VMs.
const MAX_OBJECTS: usize = 50_000;

/// How long one call waits for a change at the server.
const LONG_POLL: Duration = Duration::from_secs(30);

/// What such a call may take beyond that.
const LONG_POLL_GRACE: Duration = Duration::from_secs(30);

/// Pause when the server cannot wait for us, so that we ask again and again instead.
const POLL: Duration = Duration::from_millis(500);

/// One step from objects of a type to those that a property of theirs names.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) path: &'static str,
    /// The steps that go on from there.
    pub(crate) then: &'static [&'static str],
}

/// Which properties of which objects: those in `start`, and all that `steps` lead to.
pub(crate) struct Query<'a> {
    pub(crate) start: &'a [MoRef],
    pub(crate) steps: &'a [Step],
    pub(crate) properties: &'a [(&'a str, &'a [&'a str])],
}

impl Query<'_> {
    fn write(&self, w: &mut Writer) {
        for (kind, paths) in self.properties {
            w.element("propSet", |w| {
                w.text("type", kind);
                for path in *paths {
                    w.text("pathSet", path);
                }
            });
        }
        for start in self.start {
            w.element("objectSet", |w| {
                w.moref("obj", start);
                w.flag("skip", false);
                for step in self.steps {
                    w.typed("selectSet", "TraversalSpec", |w| {
                        w.text("name", step.name);
                        w.text("type", step.kind);
                        w.text("path", step.path);
                        w.flag("skip", false);
                        for then in step.then {
                            w.typed("selectSet", "SelectionSpec", |w| w.text("name", then));
                        }
                    });
                }
            });
        }
    }
}

/// Some properties of one object. A property that is unset is not there.
pub(crate) struct Object {
    pub(crate) id: MoRef,
    values: Vec<(String, Element)>,
}

impl Object {
    fn read(content: &mut Element) -> Option<Self> {
        let id = content.child("obj")?.moref()?;
        let sets = content.children.iter_mut().filter(|child| child.name == "propSet");
        let values = sets.filter_map(|set| {
            let name = set.text_at(&["name"])?.to_owned();
            let at = set.children.iter().position(|child| child.name == "val")?;
            Some((name, set.children.swap_remove(at)))
        });
        Some(Self { id, values: values.collect() })
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Element> {
        self.values.iter().find(|(name, _)| name == path).map(|(_, value)| value)
    }

    pub(crate) fn take(&mut self, path: &str) -> Option<Element> {
        let at = self.values.iter().position(|(name, _)| name == path)?;
        Some(self.values.swap_remove(at).1)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(|value| value.text.as_str())
    }

    pub(crate) fn owned(&self, path: &str) -> String {
        self.text(path).unwrap_or_default().to_owned()
    }

    pub(crate) fn flag(&self, path: &str) -> bool {
        self.text(path) == Some("true")
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    pub(crate) fn moref(&self, path: &str) -> Option<MoRef> {
        self.get(path)?.moref()
    }

    /// The elements of a list.
    pub(crate) fn list(&self, path: &str) -> &[Element] {
        self.get(path).map_or(&[], |value| value.children.as_slice())
    }
}

impl Session {
    /// All that the query asks for, page by page.
    pub(crate) async fn retrieve(&self, query: &Query<'_>) -> Result<Vec<Object>, Failure> {
        let collector = &self.roots.property_collector;
        let request = Request::new("RetrievePropertiesEx", collector, |w| {
            w.element("specSet", |w| query.write(w));
            w.element("options", |w| w.text("maxObjects", &PAGE.to_string()));
        });
        let mut answer = self.call(&request).await?;
        let mut objects = Vec::new();
        loop {
            // No answer at all: nothing was found.
            let Some(page) = answer.children.iter_mut().find(|child| child.name == "returnval")
            else {
                return Ok(objects);
            };
            let token = page.text_at(&["token"]).unwrap_or_default().to_owned();
            let found = page.children.iter_mut().filter(|child| child.name == "objects");
            objects.extend(found.filter_map(Object::read));
            if token.is_empty() {
                return Ok(objects);
            }
            if objects.len() > MAX_OBJECTS {
                return Err(Failure::garbled(request.call, format!("over {MAX_OBJECTS} objects")));
            }
            let more = Request::new("ContinueRetrievePropertiesEx", collector, |w| {
                w.text("token", &token)
            });
            answer = self.call(&more).await?;
        }
    }

    /// Properties of one object; `ManagedObjectNotFound` if it has gone.
    pub(crate) async fn read(&self, object: &MoRef, paths: &[&str]) -> Result<Object, Failure> {
        let query = Query {
            start: std::slice::from_ref(object),
            steps: &[],
            properties: &[(&object.kind, paths)],
        };
        let found = self.retrieve(&query).await?;
        found.into_iter().next().ok_or_else(|| Failure::not_found(object.to_string()))
    }
}

/// Waits for changes of some objects. A change is a hint to read them again, so that lost sessions,
/// lost versions and servers that cannot wait cost only time.
pub(crate) struct Watch<'a> {
    session: &'a Session,
    objects: Vec<(MoRef, &'static [&'static str])>,
    /// A collector of our own, with the version that we have seen.
    collector: Option<(MoRef, String)>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        session: &'a Session,
        objects: Vec<(MoRef, &'static [&'static str])>,
    ) -> Self {
        Self { session, objects, collector: None }
    }

    /// Returns when something may have changed, or after `within` at most.
    pub(crate) async fn changed(&mut self, within: Duration) {
        let end = Instant::now() + within;
        if self.wait(within.min(LONG_POLL)).await.is_err() {
            // The collector went with an old session, the server is away or cannot do this: poll.
            self.collector = None;
            sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn wait(&mut self, within: Duration) -> Result<(), Failure> {
        let (collector, version) = match self.collector.take() {
            Some(ready) => ready,
            None => (self.collect().await?, String::new()),
        };
        let request = Request::new("WaitForUpdatesEx", &collector, |w| {
            w.text("version", &version);
            w.element("options", |w| {
                w.text("maxWaitSeconds", &within.as_secs().max(1).to_string());
            });
        });
        // Put back first: should this future be dropped, the collector is still destroyed.
        self.collector = Some((collector, version));
        let answer = self.session.call_within(&request, within + LONG_POLL_GRACE).await?;
        if let (Some(next), Some((_, version))) =
            (answer.text_at(&["returnval", "version"]), &mut self.collector)
        {
            next.clone_into(version);
        }
        Ok(())
    }

    async fn collect(&self) -> Result<MoRef, Failure> {
        let root = &self.session.roots.property_collector;
        let create = Request::new("CreatePropertyCollector", root, |_| {});
        let collector = self.session.call_for_moref(&create).await?;
        for (object, paths) in &self.objects {
            let query = Query {
                start: std::slice::from_ref(object),
                steps: &[],
                properties: &[(&object.kind, paths)],
            };
            let filter = Request::new("CreateFilter", &collector, |w| {
                w.element("spec", |w| query.write(w));
                w.flag("partialUpdates", false);
            });
            self.session.call_for_moref(&filter).await?;
        }
        Ok(collector)
    }

    /// Gives the collector back. One that is dropped instead lives as long as the session.
    pub(crate) async fn end(mut self) {
        if let Some((collector, _)) = self.collector.take() {
            let destroy = Request::new("DestroyPropertyCollector", &collector, |_| {});
            // Nothing depends on it: the server drops it with the session at the latest.
            let _ = self.session.call(&destroy).await;
        }
    }
}
