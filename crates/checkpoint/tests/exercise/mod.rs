//! What a hostile file must survive; the fuzz targets and their twins in `hostile.rs` run the same code.
//!
//! Owns the assertions that hold for every input. Must not assume that an input is valid, nor that it is not.

use bytes::Bytes;
use checkpoint::gguf::{Metadata, Value};
use checkpoint::{Checkpoint, Error, Tensor};

const FILE: &str = "some/hostile.file";

/// Opens `bytes` as a model and touches everything that a loader would touch.
pub(crate) fn model(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    match Checkpoint::from_bytes(FILE, bytes.clone()) {
        Err(e) => describes_itself(&e),
        Ok(checkpoint) => {
            assert_eq!(checkpoint.file_bytes(), bytes.len() as u64);
            let held: usize = checkpoint.tensors().map(|t| t.bytes.len()).sum();
            assert!(held <= bytes.len(), "tensors overlap");
            checkpoint.tensors().for_each(|t| tensor(&checkpoint, t));
            checkpoint.gguf().into_iter().for_each(metadata);
        }
    }
}

/// Parses `bytes` as a configuration.
pub(crate) fn config(bytes: &[u8]) {
    match checkpoint::parse_config(FILE, bytes) {
        Err(e) => describes_itself(&e),
        Ok(value) => assert!(value.is_object()),
    }
}

/// The error names the file and stays short, whatever the file says.
fn describes_itself(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with(FILE) && error.path().to_str() == Some(FILE), "{text}");
    assert!(text.len() < 4096, "an error of {} bytes", text.len());
}

fn tensor(checkpoint: &Checkpoint, tensor: &Tensor) {
    assert_eq!(checkpoint.tensor(&tensor.name).map(|t| t.bytes.as_ptr()), Some(tensor.bytes.as_ptr()));
    if tensor.bytes.len() > 1 << 16 {
        return;
    }
    let n = tensor.shape.iter().product::<usize>();
    keep_or_describe(tensor.to_f32(), |values| assert_eq!(values.len(), n));
    keep_or_describe(tensor.to_i64(), |values| assert_eq!(values.len(), n));
    keep_or_describe(tensor.matrices(), |stack| assert_eq!(stack.len(), tensor.shape[0]));
    for block in [None, Some([0, 1]), Some([3, 5])] {
        keep_or_describe(checkpoint.matrix_of(&tensor.name, block), |matrix| {
            assert_eq!(matrix.rows * matrix.cols, n);
            if matrix.cols <= 1 << 16 {
                let mut row = vec![0.0; matrix.cols];
                (0..matrix.rows.min(4)).for_each(|r| matrix.decode_row(r, &mut row));
            }
        });
    }
}

fn metadata(metadata: &Metadata) {
    for (key, value) in metadata.iter() {
        assert!(metadata.get(key).is_some());
        keep_or_describe(metadata.required::<u32>(key), |_| ());
        keep_or_describe(metadata.required::<i32>(key), |_| ());
        keep_or_describe(metadata.required::<u64>(key), |_| ());
        keep_or_describe(metadata.required::<usize>(key), |_| ());
        keep_or_describe(metadata.required::<f32>(key), |_| ());
        keep_or_describe(metadata.required::<bool>(key), |_| ());
        keep_or_describe(metadata.required::<&str>(key), |_| ());
        let Value::Array(array) = value else { continue };
        keep_or_describe(metadata.required::<Vec<&str>>(key), |texts| assert_eq!(texts.len(), array.len()));
        keep_or_describe(metadata.required::<Vec<u32>>(key), |numbers| assert_eq!(numbers.len(), array.len()));
        keep_or_describe(metadata.required::<Vec<f32>>(key), |numbers| assert_eq!(numbers.len(), array.len()));
        assert!((0..array.len().min(100)).all(|i| array.get(i).is_some()) && array.get(array.len()).is_none());
    }
}

fn keep_or_describe<T>(result: Result<T, Error>, keep: impl FnOnce(T)) {
    match result {
        Ok(value) => keep(value),
        Err(e) => describes_itself(&e),
    }
}
