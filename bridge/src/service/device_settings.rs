//! What a device has set for itself.

use schema::v1;

use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::code::Code;
use crate::store::{Transaction, devices};

/// What is to be changed; what is not set, stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSet {
    /// Catch-up comes as zstd.
    zstd: Option<bool>,
}

impl From<v1::DeviceSet> for DeviceSet {
    fn from(asked: v1::DeviceSet) -> Self {
        DeviceSet { zstd: asked.zstd }
    }
}

/// Changes settings of the device that asks.
pub(super) async fn set(
    tx: &Transaction,
    caller: &Caller,
    asked: DeviceSet,
) -> Result<Settled, Failed> {
    let device = (&caller.uid, caller.device.as_str());
    if devices::known(tx, &[device]).await?.is_empty() {
        let reason = "only a device that has subscribed under its own client id has settings";
        return Err(Refused::new(Code::Conflict, reason).into());
    }
    if let Some(zstd) = asked.zstd {
        devices::set_zstd(tx, device, zstd).await?;
    }
    Ok(Settled::ok(v1::Ok::default()))
}
