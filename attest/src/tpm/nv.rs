//! NV indices that hold data of a platform's own, such as the reports of a confidential VM in Azure.

use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{MaxNvBuffer, NvPublic};

use super::Tpm;
use super::ek_certificate::NV_CHUNK;
use super::error::{TpmError, failed};

impl Tpm {
    /// The contents of an NV index, at most 8 KiB; `None` where there is none, or where it was never written.
    ///
    /// # Errors
    /// [`TpmError`]
    pub fn nv_contents(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        self.operation(|tpm| tpm.nv_read_all(index))
    }

    /// Writes an NV index from its beginning; one that is not there is made, of this size, for the owner to read and write.
    ///
    /// # Errors
    /// [`TpmError`]
    pub fn nv_store(&mut self, index: u32, bytes: &[u8]) -> Result<(), TpmError> {
        self.operation(|tpm| {
            let handle = NvIndexTpmHandle::new(index).map_err(failed("NV index"))?;
            let nv = if tpm.exists(index)? {
                let object = tpm.ctx.tr_from_tpm_public(TpmHandle::NvIndex(handle));
                NvIndexHandle::from(object.map_err(failed("TPM2_NV_ReadPublic"))?)
            } else {
                tpm.nv_define(handle, bytes.len())?
            };
            let written = tpm.nv_write_open(nv, bytes);
            let closed = tpm.ctx.tr_close(&mut nv.into()).map_err(failed("Esys_TR_Close"));
            written?;
            closed
        })
    }

    fn nv_define(&mut self, handle: NvIndexTpmHandle, size: usize) -> Result<NvIndexHandle, TpmError> {
        let attributes = NvIndexAttributes::builder()
            .with_owner_read(true)
            .with_owner_write(true)
            .with_auth_read(true)
            .with_auth_write(true)
            .build()
            .map_err(failed("TPM2_NV_DefineSpace"))?;
        let public = NvPublic::builder()
            .with_nv_index(handle)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes)
            .with_data_area_size(size)
            .build()
            .map_err(failed("TPM2_NV_DefineSpace"))?;
        self.ctx
            .execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.nv_define_space(Provision::Owner, None, public)
            })
            .map_err(failed("TPM2_NV_DefineSpace"))
    }

    fn nv_write_open(&mut self, nv: NvIndexHandle, bytes: &[u8]) -> Result<(), TpmError> {
        let (public, _) = self.ctx.nv_read_public(nv).map_err(failed("TPM2_NV_ReadPublic"))?;
        // By the index itself where that is allowed: the owner hierarchy may have a password.
        let auth = if public.attributes().auth_write() {
            NvAuth::NvIndex(nv)
        } else {
            NvAuth::Owner
        };
        for (part, offset) in bytes.chunks(NV_CHUNK).zip((0u16..).step_by(NV_CHUNK)) {
            let data = MaxNvBuffer::try_from(part).map_err(failed("TPM2_NV_Write"))?;
            self.ctx
                .execute_with_session(Some(AuthSession::Password), |ctx| {
                    ctx.nv_write(auth, nv, data.clone(), offset)
                })
                .map_err(failed("TPM2_NV_Write"))?;
        }
        Ok(())
    }
}
