// package: tensors
// file: tensors.proto

