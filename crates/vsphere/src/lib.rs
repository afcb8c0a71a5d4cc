//! The vSphere calls a recovery needs, over SOAP (vim25).
