package gcs

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"net/url"
)

// The JSON API's "multipart upload": one request whose first part describes the object and whose second one is it.

const octets = "application/octet-stream"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *Store) uploadURL(query url.Values) string {
	query.Set("uploadType", "multipart")
	query.Set("fields", "size")
	if s.opts.KMSKey != "" {
		query.Set("kmsKeyName", s.opts.KMSKey)
	}
	return s.endpoint + "/upload/storage/v1/b/" + url.PathEscape(s.opts.Bucket) + "/o?" + query.Encode()
}

// description is the first part.
type description struct {
	Name         string `json:"name"`
	ContentType  string `json:"contentType"`
	CRC32C       string `json:"crc32c"` // of the second, which is refused where it has another one
	StorageClass string `json:"storageClass,omitempty"`
}

// parts returns what stands before and after the body, and the type of all three.
func (s *Store) parts(name string, body []byte) (head, tail, contentType string) {
	sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(body, castagnoli))
	text, _ := json.Marshal(description{ // of strings alone: it cannot fail
		Name: s.prefix + name, ContentType: octets,
		CRC32C: base64.StdEncoding.EncodeToString(sum), StorageClass: s.opts.StorageClass,
	})
	boundary := rand.Text() // 128 random bits: no body has them
	head = "--" + boundary + "\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n" + string(text) +
		"\r\n--" + boundary + "\r\nContent-Type: " + octets + "\r\n\r\n"
	return head, "\r\n--" + boundary + "--\r\n", "multipart/related; boundary=" + boundary
}
