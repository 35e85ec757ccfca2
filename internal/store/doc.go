// Package store keeps objects, names with bytes, in a place: a local directory, a bucket of S3 or Google Cloud Storage, a
// container of Azure Blob Storage, or a server that is reached over SSH. It promises atomic, durable writes, exclusive
// creation and ordered listing (see Store), and knows nothing of what the bytes mean: what arrives here is sealed already.
//
// Store is the contract; the packages below implement it (local, s3, gcs, azblob, sftp); open finds the one that a URL
// names; Retry repeats what was Busy, in this one place, within a budget; Probe learns what a place can really do
// instead of believing its name. storetest holds every implementation to the contract; what somebody outside of this
// module needs for one is published as ../../store.
package store
