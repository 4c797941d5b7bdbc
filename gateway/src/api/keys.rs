//! Key slots of an encrypted repository.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use repo::{
    AuthorityAge, KdfSettings, KeySlot, KeySlotKind, KeySlots, NewKeySlot, RepoError, Secret,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::Core;
use crate::alerts;

use super::marks::confirm;
use super::problem::Problem;

/// A key slot.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeySlotView {
    /// Its name.
    pub slot: String,
    /// What opens it: `passphrase` or `key`.
    pub kind: String,
    /// When it was made or last changed, RFC 3339.
    pub created: String,
}

/// A key slot to be added.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeySlotBody {
    /// Its name.
    pub slot: String,
    /// What is to open it: a passphrase, or the text of a key (`HFKEY1-...`).
    pub secret: String,
}

/// Another secret for a key slot.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeKeySlotBody {
    /// What opens the slot now.
    pub old_secret: String,
    /// What is to open it.
    pub secret: String,
    /// A one-time code of the lock authority; needed while a restore point is locked.
    #[serde(default)]
    pub code: Option<String>,
}

/// How the removal of a key slot is confirmed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirmation {
    /// A one-time code of the lock authority; needed while a restore point is locked.
    pub code: Option<String>,
}

impl KeySlotView {
    /// The view of a slot.
    pub fn new(slot: &KeySlot) -> Self {
        let kind = match slot.kind {
            KeySlotKind::Passphrase => "passphrase",
            KeySlotKind::Key => "key",
        };
        Self {
            slot: slot.name.clone(),
            kind: kind.to_owned(),
            created: slot.created.to_string(),
        }
    }
}

/// Lists the key slots by name. A repository that is not encrypted has none.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = Vec<KeySlotView>)))]
pub(super) async fn list(State(core): State<Arc<Core>>) -> Result<Json<Vec<KeySlotView>>, Problem> {
    let slots = core
        .run(|core| {
            let slots = core.repository.key_slots().map(KeySlots::list);
            slots.transpose()
        })
        .await?;
    let slots = slots.unwrap_or_default();
    Ok(Json(slots.iter().map(KeySlotView::new).collect()))
}

/// Adds a key slot: from then on its secret opens the repository, too.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = NewKeySlotBody,
    responses((status = 201, body = KeySlotView), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn add(
    State(core): State<Arc<Core>>,
    Json(body): Json<NewKeySlotBody>,
) -> Result<(StatusCode, Json<KeySlotView>), Problem> {
    let secret = read_secret(body.secret)?;
    let new = new_slot(body.slot, secret);
    let slot = core
        .run(move |core| -> Result<_, Problem> {
            let slot = slots_of(core)?.add(&new)?;
            tell(core, &slot.name, "was added");
            Ok(slot)
        })
        .await?;
    Ok((StatusCode::CREATED, Json(KeySlotView::new(&slot))))
}

/// Gives a key slot another secret. Nothing else is written. While a restore point is locked it takes a one-time code.
#[utoipa::path(put, path = "/v1/keys/{slot}", tag = "keys", params(("slot" = String, Path)), request_body = ChangeKeySlotBody,
    responses((status = 200, body = KeySlotView), (status = 403, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn change(
    State(core): State<Arc<Core>>,
    Path(slot): Path<String>,
    Json(body): Json<ChangeKeySlotBody>,
) -> Result<Json<KeySlotView>, Problem> {
    let old = read_secret(body.old_secret)?;
    let new = new_slot(slot, read_secret(body.secret)?);
    let slot = core
        .run(move |core| -> Result<_, Problem> {
            let slots = slots_of(core)?;
            if !slots.opens(&new.name, &old)? {
                let detail = format!("this passphrase or key does not open key slot {}", new.name);
                return Err(Problem::new(StatusCode::FORBIDDEN, "wrong-key", detail));
            }
            let code = body.code.as_deref();
            let slot = confirmed(core, code, |authority| slots.replace(&new, authority))?;
            tell(core, &slot.name, "has another secret");
            Ok(slot)
        })
        .await?;
    Ok(Json(KeySlotView::new(&slot)))
}

/// Removes a key slot, unless it is the last. While a restore point is locked it takes a one-time code.
#[utoipa::path(delete, path = "/v1/keys/{slot}", tag = "keys", params(("slot" = String, Path), ("code" = Option<String>, Query, description = "A one-time code of the lock authority; needed while a restore point is locked")),
    responses((status = 204), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn remove(
    State(core): State<Arc<Core>>,
    Path(slot): Path<String>,
    Query(confirmation): Query<Confirmation>,
) -> Result<StatusCode, Problem> {
    core.run(move |core| -> Result<_, Problem> {
        let slots = slots_of(core)?;
        let code = confirmation.code.as_deref();
        confirmed(core, code, |authority| slots.remove(&slot, authority))?;
        tell(core, &slot, "was removed");
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Does what locks may forbid; if they do, once more with the code that was given. It is not used up where none is needed.
fn confirmed<T>(
    core: &Core,
    code: Option<&str>,
    change: impl Fn(Option<AuthorityAge>) -> Result<T, RepoError>,
) -> Result<T, Problem> {
    match (change(None), code) {
        (Err(RepoError::KeySlotHeld(_)), Some(code)) => {
            Ok(change(Some(confirm(core, Some(code))?))?)
        }
        (done, _) => Ok(done?),
    }
}

fn tell(core: &Core, slot: &str, what: &str) {
    core.alerts
        .raise(vec![alerts::key_slot_changed(slot, what)]);
}

fn slots_of(core: &Core) -> Result<&KeySlots, Problem> {
    core.repository.key_slots().ok_or_else(|| {
        let detail = "this repository is not encrypted and has no key slots; make an encrypted one with `holdfast init --encrypt`";
        Problem::new(StatusCode::CONFLICT, "not-encrypted", detail)
    })
}

fn new_slot(name: String, secret: Secret) -> NewKeySlot {
    NewKeySlot {
        name,
        secret,
        kdf: KdfSettings::default(),
    }
}

fn read_secret(text: String) -> Result<Secret, Problem> {
    let text = Zeroizing::new(text);
    Ok(Secret::from_text(text.as_bytes())?)
}

impl fmt::Debug for NewKeySlotBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NewKeySlotBody")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ChangeKeySlotBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChangeKeySlotBody")
            .finish_non_exhaustive()
    }
}
