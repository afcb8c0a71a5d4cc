//! A virtual disk: recovery point underneath, the guest's writes on top.
