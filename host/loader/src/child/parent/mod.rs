//! The host's side: what the child may ask ([`desk`]) and what the host asks of the child ([`seat`]).

pub(super) mod desk;
pub(super) mod seat;

#[cfg(test)]
mod tests;
