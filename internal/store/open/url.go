package open

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
)

// Location is a checked URL of a store: a directory, a bucket or container, or a directory on a server.
type Location struct {
	Dir   string          // absolute and clean; empty for the others
	SFTP  *sftp.Options   // nil for the others
	GCS   *gcs.Options    // nil for the others
	Azure *azblob.Options // nil for the others
	S3    s3.Options
}

const (
	forms = "write /path/to/directory, file:///path/to/directory, s3://bucket/prefix?region=…, " +
		"gs://bucket/prefix, azblob://account/container/prefix or sftp://user@host/path"

	credentialsHint = "remove it (and replace the key if the URL was seen by others); credentials are found as by the " +
		"AWS tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ?profile=… of ~/.aws/config"
)

// Parse reads the URL of a store and checks everything that can be checked without asking the store.
func Parse(text string) (Location, error) {
	if strings.HasPrefix(text, "/") {
		return directory(text, text)
	}
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok {
		scheme = ""
	}
	// Before anything is printed or parsed: user:password@ and the like. A server has users.
	if strings.Contains(rest, "@") && strings.HasPrefix(rest, "//") && !strings.EqualFold(scheme, "sftp") {
		if host, _, _ := strings.Cut(rest[2:], "/"); strings.Contains(host, "@") {
			return Location{}, secretIn("has a user or a password before @", hintOf(scheme))
		}
	}
	switch strings.ToLower(scheme) {
	case "file", "s3", "gs", "azblob", "sftp":
	default:
		what := fmt.Sprintf("store URL %q", text)
		if strings.Contains(text, "@") || strings.Contains(text, "?") {
			what = "store URL" // it may hold what we would not repeat
		}
		return Location{}, &dr.Failure{What: what, Reason: "it is neither an absolute path nor a URL of file, s3, gs, azblob or sftp", Next: forms}
	}
	u, err := url.Parse(text)
	if err != nil {
		// Not err's own text: it repeats parts of the URL.
		return Location{}, &dr.Failure{What: "store URL of " + scheme, Reason: "it cannot be read as a URL", Next: forms}
	}
	if u.Fragment != "" || strings.HasSuffix(text, "#") {
		return Location{}, &dr.Failure{What: "store URL of " + scheme, Reason: "it has a part after #", Next: "write # in a name as %23"}
	}
	if u.Opaque != "" {
		return Location{}, &dr.Failure{What: "store URL of " + scheme, Reason: "two slashes must follow the colon", Next: forms}
	}
	switch u.Scheme {
	case "file":
		return file(u)
	case "gs":
		return googleBucket(u)
	case "azblob":
		return azureContainer(u)
	case "sftp":
		return server(u)
	}
	return bucket(u)
}

// hintOf says where the credentials of a kind of store are to be instead.
func hintOf(scheme string) string {
	switch strings.ToLower(scheme) {
	case "gs":
		return googleHint
	case "azblob":
		return azureHint
	}
	return credentialsHint
}

func secretIn(reason, next string) error {
	return &dr.Failure{What: "store URL", Reason: "it " + reason + "; a store's URL holds no secrets", Next: next}
}

func file(u *url.URL) (Location, error) {
	if u.Host != "" {
		return Location{}, &dr.Failure{
			What: "store URL of file", Reason: fmt.Sprintf("it names the host %q", u.Host),
			Next: "write three slashes before the path: file:///path; another machine's directory must be mounted here",
		}
	}
	if u.RawQuery != "" || u.ForceQuery {
		return Location{}, &dr.Failure{What: "store URL of file", Reason: "it has parameters, and a directory takes none", Next: "remove what follows ?"}
	}
	return directory("file://"+u.Path, u.Path)
}

func directory(text, dir string) (Location, error) {
	if !strings.HasPrefix(dir, "/") || strings.ContainsRune(dir, 0) {
		return Location{}, &dr.Failure{What: fmt.Sprintf("store URL %q", text), Reason: "its path is not absolute", Next: forms}
	}
	if dir = filepath.Clean(dir); dir == "/" {
		return Location{}, &dr.Failure{What: fmt.Sprintf("store URL %q", text), Reason: "it is the root of the file system", Next: "name a directory of its own for the store"}
	}
	return Location{Dir: dir}, nil
}

// setters are the parameters of s3, each with its check.
var setters = map[string]func(o *s3.Options, v string) error{
	"region":        func(o *s3.Options, v string) error { o.Region = v; return nil },
	"profile":       func(o *s3.Options, v string) error { o.Profile = v; return nil },
	"kms-key":       func(o *s3.Options, v string) error { o.KMSKey = v; return nil },
	"endpoint":      setEndpoint,
	"path-style":    setStyle,
	"ca-file":       setCAFile,
	"storage-class": setStorageClass,
	"sse":           setSSE,
}

func bucket(u *url.URL) (Location, error) {
	o := s3.Options{Bucket: u.Host}
	fail := func(reason, next string) (Location, error) {
		return Location{}, &dr.Failure{What: "store URL s3://" + u.Host + u.EscapedPath(), Reason: reason, Next: next}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("its parameters cannot be read", "write them as ?name=value&name=value")
	}
	// Secrets first, so that no other complaint prints one.
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if isSecret(name) {
			return Location{}, secretIn("has a parameter that looks like a credential", credentialsHint)
		}
	}
	if reason := badBucket(u.Host); reason != "" {
		return fail(reason, "write s3://bucket/prefix, with the bucket's name between // and /")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, known := setters[name]
		if !known {
			return fail(fmt.Sprintf("it has the parameter %q", name),
				"the parameters are "+strings.Join(slices.Sorted(maps.Keys(setters)), ", "))
		}
		if v := query[name]; len(v) != 1 || v[0] == "" {
			return fail(fmt.Sprintf("its parameter %s has %d values, or an empty one", name, len(v)), "give it once, with a value")
		}
		if err := set(&o, query.Get(name)); err != nil {
			return fail(fmt.Sprintf("its parameter %s is wrong: %v", name, err), dr.Advice(err))
		}
	}
	if o.KMSKey != "" && !strings.HasPrefix(o.SSE, "aws:kms") {
		return fail("its parameter kms-key needs sse=aws:kms", "add sse=aws:kms, or remove kms-key")
	}
	if o.Prefix, err = cleanPrefix(u.Path); err != nil {
		return fail(err.Error(), "write the prefix as names with single slashes between: s3://bucket/backups/main")
	}
	return Location{S3: o}, nil
}

func isSecret(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"secret", "password", "passwd", "token", "access", "credential", "signature"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// badBucket checks the characters and the length that all servers agree on.
func badBucket(name string) string {
	switch {
	case name == "":
		return "it names no bucket"
	case strings.Contains(name, ":"):
		return "a port stands where the bucket's name is expected; the server goes into ?endpoint=…"
	case len(name) < 3 || len(name) > 63:
		return fmt.Sprintf("the bucket's name has %d characters; 3 to 63 are allowed", len(name))
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return fmt.Sprintf("the bucket's name has the character %q; [a-z0-9.-] are allowed", c)
		}
	}
	return ""
}

// maxPrefix leaves room for our names in the 1024 bytes of an S3 key.
const maxPrefix = 500

func cleanPrefix(p string) (string, error) {
	p = strings.Trim(p, "/")
	if p == "" {
		return "", nil
	}
	if len(p) > maxPrefix {
		return "", fmt.Errorf("its prefix has %d bytes; at most %d are allowed", len(p), maxPrefix)
	}
	if path.Clean("/"+p) != "/"+p {
		return "", fmt.Errorf("its prefix has an empty, . or .. element")
	}
	for _, c := range p {
		if c < ' ' || c == 0x7f || c == '\ufffd' {
			return "", fmt.Errorf("its prefix has the character %q", c)
		}
	}
	return p, nil
}

func setEndpoint(o *s3.Options, v string) (err error) {
	o.Endpoint, err = endpoint(v, false)
	return err
}

// endpoint checks a server's URL, which may have a path where path says so.
func endpoint(v string, path bool) (string, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "", dr.Advise(fmt.Errorf("it is not http(s)://host"), "write endpoint=https://host or endpoint=https://host:port")
	case u.User != nil:
		return "", dr.Advise(fmt.Errorf("it has a user or password; a store's URL holds no secrets"), "remove it")
	case !path && u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "", dr.Advise(fmt.Errorf("more follows the host"), "bucket and prefix go before the ?: s3://bucket/prefix?endpoint=https://host")
	}
	if p := u.Port(); p != "" {
		if _, err := net.LookupPort("tcp", p); err != nil {
			return "", dr.Advise(fmt.Errorf("port %q", p), "write a port from 1 to 65535")
		}
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func setStyle(o *s3.Options, v string) error {
	path, err := strconv.ParseBool(v)
	if err != nil {
		return dr.Advise(fmt.Errorf("%q", v), "write path-style=true or path-style=false")
	}
	if o.Style = s3.StyleVirtual; path {
		o.Style = s3.StylePath
	}
	return nil
}

func setCAFile(o *s3.Options, v string) error {
	if !filepath.IsAbs(v) {
		return dr.Advise(fmt.Errorf("%q is not an absolute path", v), "write ca-file=/path/to/ca.pem")
	}
	o.CAFile = v
	return nil
}

// storageClasses are those from which an object can be read at once (S3 user guide, storage classes). Those
// that must be thawed first would turn a recovery into a wait of hours.
var storageClasses = []string{
	"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "EXPRESS_ONEZONE",
}

func setStorageClass(o *s3.Options, v string) error {
	if !slices.Contains(storageClasses, v) {
		return dr.Advise(fmt.Errorf("objects of class %q cannot be read at once, or it does not exist", v),
			"choose one of "+strings.Join(storageClasses, ", "))
	}
	o.StorageClass = v
	return nil
}

func setSSE(o *s3.Options, v string) error {
	if v != "AES256" && v != "aws:kms" && v != "aws:kms:dsse" {
		return dr.Advise(fmt.Errorf("%q", v), "write sse=AES256, sse=aws:kms or sse=aws:kms:dsse")
	}
	o.SSE = v
	return nil
}
