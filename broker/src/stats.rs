use crate::closed::Closed;
use crate::codec::{PacketType, ReasonCode};
use crate::peer::Door;
#[derive(Debug, Default)]
pub(crate) struct Stats;
impl Stats {
    pub(crate) fn opened(&self, _d: Door) {}
    pub(crate) fn closed(&self, _d: Door, _r: Closed) {}
    pub(crate) fn refused(&self, _r: ReasonCode) {}
    pub(crate) fn received(&self, _p: PacketType, _b: usize) {}
    pub(crate) fn sent(&self, _p: PacketType, _b: usize) {}
    pub(crate) fn publish_refused(&self) {}
    pub(crate) fn subscription_refused(&self) {}
}
impl Closed {
    pub fn name(self) -> &'static str {
        "x"
    }
}
