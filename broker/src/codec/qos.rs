//! Quality of service.

use super::wire_enum::wire_enum;

wire_enum! {
    /// How hard a message is tried to be delivered (MQTT 4.3).
    #[derive(PartialOrd, Ord, Default)]
    pub enum Qos, "qos 3 does not exist" {
        /// QoS 0: fire and forget.
        #[default]
        AtMostOnce = 0,
        /// QoS 1: acknowledged by PUBACK, duplicates are possible.
        AtLeastOnce = 1,
        /// QoS 2: acknowledged by PUBREC, PUBREL and PUBCOMP.
        ExactlyOnce = 2,
    }
}
