// Package azblob keeps the objects of a store.Store as block blobs in a container of Azure Blob Storage. It is opened
// with an account's key, with a shared access signature, or with what azidentity finds: a client of Entra ID in the
// environment, a workload's identity, a managed identity, the Azure CLI's login.
//
// Each method is one request (a listing: one for each 5000 objects), never repeated here: store.Retry does that. Uploads
// are single Put Blob requests with the MD5 of the body: one that was cut off or altered on its way never becomes an
// object. Create is one with If-None-Match: *.
//
// Accounts with a hierarchical namespace list in another order than that of bytes, which List finds and refuses. The
// names that Holdfast gives have no element that ends in a dot, which Azure's manual advises against.
package azblob
