// Package open finds the store that a URL names: the one list of what kinds of stores there are.
//
//	/mnt/backup/main, file:///mnt/backup/main       a directory
//	s3://bucket/prefix?region=eu-central-1          Amazon S3
//	s3://bucket?endpoint=https://s3.example.org     a compatible server
//	gs://bucket/prefix                              Google Cloud Storage
//	azblob://account/container/prefix               Azure Blob Storage
//	sftp://user@host:2222/backup/main               a directory on a server, over SSH
//	sftp://user@host/~/main?identity-file=~/.ssh/hf the same, below the user's home, with a key of its own
//
// Parameters of s3: region, endpoint, path-style, profile, ca-file, storage-class, sse, kms-key. Those of gs: endpoint,
// key-file, storage-class, kms-key. Those of azblob: endpoint, key-file, sas-file, tier. Those of sftp are files of this
// machine, given once or several times: identity-file, known-hosts. Without them keys and hosts are found where OpenSSH
// finds them. A URL holds no secrets, it stands in configuration files and messages; one that does is refused, and not
// repeated in the error.
package open
