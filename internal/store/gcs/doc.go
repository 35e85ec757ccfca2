// Package gcs keeps the objects of a store.Store in a bucket of Google Cloud Storage. Credentials are found as Google's
// tools find them (application default credentials: the file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's own, the
// machine's service account), or in a file that the options name.
//
// It speaks the JSON API itself: six requests, of which the manual has each. Google's own clients for it bring gRPC and a
// tracing framework into the program (docs/decisions/0022); what is theirs here is the finding of credentials.
//
// Each method is one request (a listing: one for each 1000 objects), never repeated here: store.Retry does that. Uploads
// are single requests of two parts, of which the first has the CRC-32C of the second: one that was cut off or altered on
// its way never becomes an object. Create is an upload with ifGenerationMatch=0.
package gcs
