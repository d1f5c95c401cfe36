//! agent
pub mod cli {
    //! The command line, one file per verb.
    pub mod gateway;
}
pub mod gateway;
