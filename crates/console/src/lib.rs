//! HTTP: JSON API, pages, events, health and metrics.
