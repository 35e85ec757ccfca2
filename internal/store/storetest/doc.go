// Package storetest holds every store.Store to its contract, and supplies stores for the tests of what is built
// on one:
//
//	Conformance  the contract as tests
//	Memory       a store in memory, with copies of its content for crash tests
//	Faulty       a store that fails on order; EachFault enumerates the orders
//	PowerLoss    what a directory store holds after the power failed, at any step
//	S3           a real S3 server on loopback, which can be killed and started again
//	GCS, Azurite the same for Google Cloud Storage and Azure Blob Storage: emulators
//	SSHD         the same with OpenSSH's server
//	NewProvider  what stands before it on a bad day: refuses, lists late, loses what it has acknowledged
//	NewProxy     a line to either, which is cut, slow or silent on order
//	NewNet       regions: network namespaces with servers in them, that can be cut off
package storetest
