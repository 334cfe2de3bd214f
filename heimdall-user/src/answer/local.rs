use crate::dns::Answer;
#[derive(Debug, Default)]
pub struct LocalData;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct LocalError;
impl LocalData {
    pub fn lookup(&self, _: &[u8], _: u16) -> Option<&Answer> {
        None
    }
}
