package open

import (
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/line"
)

const (
	googleHint = "remove it (and replace the key if the URL was seen by others); credentials are found as by Google's tools " +
		"(GOOGLE_APPLICATION_CREDENTIALS, gcloud, the machine's service account), or in ?key-file=/path/to/key.json"
	azureHint = "remove it (and replace the key or signature if the URL was seen by others); credentials are found as by Azure's tools " +
		"(AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID, a managed identity), or in ?key-file=/path or ?sas-file=/path"
)

// googleSetters are the parameters of gs, each with its check.
var googleSetters = map[string]func(o *gcs.Options, v string) error{
	"endpoint":      func(o *gcs.Options, v string) error { return setCloudEndpoint(&o.Endpoint, v, false) },
	"key-file":      func(o *gcs.Options, v string) error { return setFile(&o.KeyFile, "key-file", v) },
	"kms-key":       func(o *gcs.Options, v string) error { o.KMSKey = v; return nil },
	"storage-class": func(o *gcs.Options, v string) error { return setOneOf(&o.StorageClass, v, googleClasses) },
}

// googleClasses can all be read at once, unlike those of the others; the colder ones cost by the read.
var googleClasses = []string{"STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"}

// azureSetters are the parameters of azblob.
var azureSetters = map[string]func(o *azblob.Options, v string) error{
	"endpoint": func(o *azblob.Options, v string) error { return setCloudEndpoint(&o.Endpoint, v, true) },
	"key-file": func(o *azblob.Options, v string) error { return setFile(&o.KeyFile, "key-file", v) },
	"sas-file": func(o *azblob.Options, v string) error { return setFile(&o.SASFile, "sas-file", v) },
	"tier":     func(o *azblob.Options, v string) error { return setOneOf(&o.Tier, v, azureTiers) },
}

// azureTiers are those from which a blob can be read at once; Archive would turn a recovery into a wait of hours.
var azureTiers = []string{"Hot", "Cool", "Cold"}

func googleBucket(u *url.URL) (Location, error) {
	fail := func(reason, next string) (Location, error) {
		return Location{}, &dr.Failure{What: "store URL gs://" + u.Host + u.EscapedPath(), Reason: reason, Next: next}
	}
	o := &gcs.Options{Bucket: u.Host}
	if err := parameters(u, o, googleSetters, googleHint); err != nil {
		return Location{}, err
	}
	if reason := badGoogleBucket(u.Host); reason != "" {
		return fail(reason, "write gs://bucket/prefix, with the bucket's name between // and /")
	}
	var err error
	if o.Prefix, err = cleanPrefix(u.Path); err != nil {
		return fail(err.Error(), "write the prefix as names with single slashes between: gs://bucket/backups/main")
	}
	return Location{GCS: o}, nil
}

// badGoogleBucket checks a name by the manual's "Bucket naming requirements".
func badGoogleBucket(name string) string {
	switch {
	case name == "":
		return "it names no bucket"
	case strings.Contains(name, ":"):
		return "a port stands where the bucket's name is expected; the server goes into ?endpoint=…"
	case len(name) < 3 || len(name) > 222:
		return fmt.Sprintf("the bucket's name has %d characters; 3 to 222 are allowed", len(name))
	}
	return badCharacter("bucket", name, "._-")
}

func badCharacter(what, name, more string) string {
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(more, c) {
			return fmt.Sprintf("the %s's name has the character %q; [a-z0-9%s] are allowed", what, c, more)
		}
	}
	return ""
}

const azureForm = "write azblob://account/container/prefix"

func azureContainer(u *url.URL) (Location, error) {
	fail := func(reason, next string) (Location, error) {
		return Location{}, &dr.Failure{What: "store URL azblob://" + u.Host + u.EscapedPath(), Reason: reason, Next: next}
	}
	o := &azblob.Options{Account: u.Host}
	if err := parameters(u, o, azureSetters, azureHint); err != nil {
		return Location{}, err
	}
	if o.KeyFile != "" && o.SASFile != "" {
		return fail("it has both key-file and sas-file", "keep the one whose rights are meant")
	}
	var prefix string
	o.Container, prefix, _ = strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if reason := badAzureNames(o.Account, o.Container); reason != "" {
		return fail(reason, azureForm)
	}
	var err error
	if o.Prefix, err = cleanPrefix(prefix); err != nil {
		return fail(err.Error(), azureForm+", with single slashes between its names")
	}
	if strings.HasSuffix(o.Prefix, ".") || strings.Contains(o.Prefix, "./") {
		return fail("a name in its prefix ends in a dot, which Azure may drop", "choose a name without it")
	}
	return Location{Azure: o}, nil
}

// badAzureNames checks names by the manual's "Storage account name" and "Container names".
func badAzureNames(account, container string) string {
	switch {
	case account == "":
		return "it names no account"
	case strings.ContainsAny(account, ".:"):
		return "a server stands where the account's name is expected; it goes into ?endpoint=https://account.blob.…"
	case len(account) < 3 || len(account) > 24:
		return fmt.Sprintf("the account's name has %d characters; 3 to 24 are allowed", len(account))
	case container == "":
		return "it names no container"
	case len(container) < 3 || len(container) > 63:
		return fmt.Sprintf("the container's name has %d characters; 3 to 63 are allowed", len(container))
	case strings.HasPrefix(container, "-") || strings.HasSuffix(container, "-") || strings.Contains(container, "--"):
		return "the container's name has a dash at an end, or two together"
	}
	if reason := badCharacter("account", account, ""); reason != "" {
		return reason
	}
	return badCharacter("container", container, "-")
}

// parameters sets a URL's parameters. Secrets are looked for first, so that no other complaint prints one.
func parameters[O any](u *url.URL, o *O, setters map[string]func(*O, string) error, hint string) error {
	fail := func(reason, next string) error {
		return &dr.Failure{What: "store URL of " + u.Scheme, Reason: reason, Next: next}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("its parameters cannot be read", "write them as ?name=value&name=value")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if isSecret(name) || slices.Contains(shortSecrets, strings.ToLower(name)) {
			return secretIn("has a parameter that looks like a credential", hint)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set, known := setters[name]
		if !known {
			return fail(fmt.Sprintf("it has the parameter %q", name),
				"the parameters are "+strings.Join(slices.Sorted(maps.Keys(setters)), ", "))
		}
		if v := query[name]; len(v) != 1 || v[0] == "" {
			return fail(fmt.Sprintf("its parameter %s has %d values, or an empty one", name, len(v)), "give each parameter once, with a value")
		}
		if err := set(o, query.Get(name)); err != nil {
			return fail(fmt.Sprintf("its parameter %s is wrong: %v", name, err), dr.Advice(err))
		}
	}
	return nil
}

// shortSecrets are what somebody may paste of a shared access signature or a key.
var shortSecrets = []string{"sig", "sas", "key", "account-key", "accountkey", "private-key"}

func setFile(to *string, name, v string) error {
	if !filepath.IsAbs(v) || strings.ContainsRune(v, 0) {
		return dr.Advise(fmt.Errorf("%q is not an absolute path", v), "write "+name+"=/path/to/file")
	}
	*to = v
	return nil
}

func setOneOf(to *string, v string, of []string) error {
	if !slices.Contains(of, v) {
		return dr.Advise(fmt.Errorf("%q does not exist, or cannot be read at once", v), "choose one of "+strings.Join(of, ", "))
	}
	*to = v
	return nil
}

// setCloudEndpoint is for stores whose requests carry a secret: they never cross a network in plain text. One with a
// path is that of an account, as servers other than Azure's have it.
func setCloudEndpoint(to *string, v string, path bool) error {
	base, err := endpoint(v, path)
	if err != nil {
		return err
	}
	if err := line.CheckEndpoint(base); err != nil {
		return err
	}
	*to = base
	return nil
}
