//! The HTTP interface under `/v1`: one file for each resource, one place for errors, one for who may come in.
//!
//! `docs/api/openapi.json` is the generated description, compared with the code by a test.

mod access;
mod alerts;
mod backups;
mod body;
mod collect;
mod config;
mod daemon;
mod download;
mod files;
mod handover;
mod jobs;
mod keys;
mod marks;
mod middleware;
mod points;
mod problem;
mod recoveries;
mod restore;
mod retention;
mod server;
mod smb;
mod tokens;
mod workloads;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Core;

pub use backups::{
    BackupBegun, BackupView, BaseChoice, BeginBody, HandOverBody, ImageBody, ImageView, RangeBody,
};
pub use collect::{
    CollectBody, CollectView, ExpiredView, SpaceBody, SpaceView, UnexpireBody, UsedSpaceView,
};
pub use config::ImportBody;
pub use daemon::{Health, ProofsView, StatisticsView};
pub use jobs::{JobBody, JobView};
pub use keys::{ChangeKeySlotBody, KeySlotView, NewKeySlotBody};
pub use marks::{AuthorityView, CodeBody, LockBody, LockModeChoice, LockView, LockedView};
pub use points::{PointImageView, PointView};
pub use problem::Problem;
pub use recoveries::{RecoveryBody, SealView};
pub use restore::{RestoreBody, RestoredView};
pub use retention::{AppliedView, RetentionBody, RetentionView, VerdictView, WorkloadRulesView};
pub use server::{ApiServer, Listeners};
pub use smb::{SmbConnectionView, SmbView};
pub use tokens::{TokenBody, TokenMade, TokenView};
pub use workloads::WorkloadView;

pub use handover::Descriptors;
pub(crate) use handover::HAND_OVER;

/// The title page of the description.
#[derive(OpenApi)]
#[openapi(
    info(title = "Holdfast", description = "Backup repository that you can boot from. Errors are problem+json (RFC 9457)."),
    security(("token" = [])),
    components(schemas(Problem)),
    modifiers(&SecurityScheme)
)]
struct Description;

struct SecurityScheme;

impl utoipa::Modify for SecurityScheme {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        if let Some(components) = &mut description.components {
            components.add_security_scheme("token", SecurityScheme::Http(token));
        }
    }
}

/// All routes with their description.
fn routes() -> (OpenApiRouter<Arc<Core>>, OpenApiRouter<Arc<Core>>) {
    let short = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(daemon::health))
        .routes(routes!(daemon::addresses))
        .routes(routes!(daemon::statistics))
        .routes(routes!(daemon::doctor))
        .routes(routes!(alerts::list, alerts::dismiss_all))
        .routes(routes!(alerts::dismiss))
        .routes(routes!(config::export, config::import))
        .routes(routes!(workloads::list))
        .routes(routes!(tokens::list, tokens::add))
        .routes(routes!(tokens::revoke))
        .routes(routes!(points::list))
        .routes(routes!(keys::list, keys::add))
        .routes(routes!(keys::change, keys::remove))
        .routes(routes!(points::show, points::expire))
        .routes(routes!(marks::star, marks::unstar))
        .routes(routes!(marks::unlock))
        .routes(routes!(marks::init_authority))
        .routes(routes!(backups::list, backups::begin))
        .routes(routes!(backups::show, backups::abort))
        .routes(routes!(backups::excluded))
        .routes(routes!(jobs::list, jobs::start))
        .routes(routes!(jobs::show, jobs::stop))
        .routes(routes!(collect::show, collect::start, collect::stop))
        .routes(routes!(collect::estimate))
        .routes(routes!(collect::expired))
        .routes(routes!(collect::unexpire))
        .routes(routes!(retention::show, retention::set))
        .routes(routes!(retention::judge, retention::apply))
        .routes(routes!(jobs::last_verify))
        .routes(routes!(recoveries::list, recoveries::start))
        .routes(routes!(recoveries::show, recoveries::discard))
        .routes(routes!(recoveries::stop))
        .routes(routes!(smb::show))
        .routes(routes!(smb::sambacc));
    // These move a whole disk: they have no limit of time, only one between two pieces.
    let long = OpenApiRouter::new()
        .routes(routes!(backups::extents))
        .routes(routes!(backups::file))
        // A client that gave up would not know whether the point is there.
        .routes(routes!(backups::commit))
        .routes(routes!(marks::lock))
        .routes(routes!(recoveries::seal))
        .routes(routes!(restore::extents))
        .routes(routes!(restore::file))
        .routes(routes!(files::list))
        .routes(routes!(files::search))
        .routes(routes!(files::content))
        .routes(routes!(files::archive));
    (short, long)
}

/// The description of the whole interface.
pub fn description() -> utoipa::openapi::OpenApi {
    let (short, long) = routes();
    let mut description = short.into_openapi();
    description.merge(long.into_openapi());
    description.info.version = "1".to_owned();
    description.info.license = None;
    description.info.contact = None;
    description
}

/// The router with everything around it.
fn router(core: &Arc<Core>) -> Router {
    let (short, long) = routes();
    let text = description()
        .to_pretty_json()
        .expect("the description is plain text");
    let short = Router::from(short)
        .route(
            "/v1/openapi.json",
            get(async move || ([("content-type", "application/json")], text)),
        )
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(core),
            middleware::limit_time,
        ));
    Router::from(long)
        .merge(short)
        .route("/metrics", get(daemon::metrics))
        .fallback(middleware::no_such_path)
        .method_not_allowed_fallback(middleware::no_such_method)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(core),
            access::admit,
        ))
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(core),
            middleware::finish,
        ))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(Arc::clone(core))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_description_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api/openapi.json");
        let text = super::description().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == text,
            "docs/api/openapi.json is out of date; run this test with UPDATE=1 and look at the difference"
        );
    }
}
