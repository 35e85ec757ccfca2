// Package seal turns plain bytes into bytes that only a holder of the repository's keys can read or could have
// made, and back. It knows object names and kinds, nothing of packs, snapshots or stores.
//
// Terms:
//
//	epoch      a generation of the repository's secret; rotation starts a new one, old ones stay readable
//	keyring    the secrets of all epochs, in memory
//	slot       the keyring wrapped for one recipient, as it lies in the repository
//	recipient  who can open a slot: an age public key, or a passphrase
//	envelope   the form of every sealed object: a header, then frames (docs/format/repository-v1.md, section 3)
//
// One key per object: HKDF-SHA256 of the epoch's secret with 32 random bytes from the object's header, and the
// object's kind and name as context. So a nonce can repeat only if one object seals two frames at one offset,
// which the writer's growing offset excludes, and an object under another's name does not open.
package seal
