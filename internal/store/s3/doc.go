// Package s3 keeps the objects of a store.Store in a bucket of Amazon S3 or of a server that speaks its
// protocol. Credentials are found as the AWS tools find them: environment, ~/.aws, web identity, container and
// instance roles.
//
// Each method is one request (a listing: one for each 1000 objects; a Stat of an absent name: two), never
// repeated here: store.Retry does that. A request is given up when no byte moved for a while, or when it takes
// longer than the slowest line we put up with needs for its size.
//
// Uploads are single PUTs with Content-MD5, which every server has checked for as long as the protocol exists:
// an upload that was cut off or altered on its way never becomes an object. Over plain HTTP the body is signed
// too. Create is a PUT with If-None-Match: *; a server that ignores the header is found by store.Probe.
package s3
