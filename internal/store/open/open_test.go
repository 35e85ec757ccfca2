package open_test

import (
	"errors"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/azblob"
	"github.com/holdfast-dr/holdfast/internal/store/gcs"
	"github.com/holdfast-dr/holdfast/internal/store/open"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/sftp"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]open.Location{
		"/mnt/backup":               {Dir: "/mnt/backup"},
		"/mnt//backup/../other/":    {Dir: "/mnt/other"},
		"/with space/ä%20#?x":       {Dir: "/with space/ä%20#?x"},
		"/odd@name/x":               {Dir: "/odd@name/x"},
		"file:///mnt/backup":        {Dir: "/mnt/backup"},
		"FILE:///with%20space/%23":  {Dir: "/with space/#"},
		"s3://bucket":               {S3: s3.Options{Bucket: "bucket"}},
		"s3://bucket/":              {S3: s3.Options{Bucket: "bucket"}},
		"s3://bucket/a/b%20c/":      {S3: s3.Options{Bucket: "bucket", Prefix: "a/b c"}},
		"s3://b.uc-ket/a@b":         {S3: s3.Options{Bucket: "b.uc-ket", Prefix: "a@b"}},
		"s3://bucket?path-style=0":  {S3: s3.Options{Bucket: "bucket", Style: s3.StyleVirtual}},
		"s3://bucket?region=eu-x-1": {S3: s3.Options{Bucket: "bucket", Region: "eu-x-1"}},
		"s3://bucket/p?endpoint=https://h:9000&path-style=true&profile=x&ca-file=/ca.pem&storage-class=STANDARD_IA&sse=aws:kms&kms-key=k": {
			S3: s3.Options{
				Bucket: "bucket", Prefix: "p", Endpoint: "https://h:9000", Style: s3.StylePath, Profile: "x",
				CAFile: "/ca.pem", StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKey: "k",
			},
		},
		"s3://bucket?endpoint=http%3A%2F%2F%5B%3A%3A1%5D%3A80%2F": {S3: s3.Options{Bucket: "bucket", Endpoint: "http://[::1]:80"}},
		"gs://bucket":            {GCS: &gcs.Options{Bucket: "bucket"}},
		"GS://b.uc_k-et/a/b%20c": {GCS: &gcs.Options{Bucket: "b.uc_k-et", Prefix: "a/b c"}},
		"gs://bucket/p?endpoint=http://127.0.0.1:4443/&key-file=/k.json&storage-class=COLDLINE&kms-key=projects/p/locations/l/keyRings/r/cryptoKeys/k": {
			GCS: &gcs.Options{
				Bucket: "bucket", Prefix: "p", Endpoint: "http://127.0.0.1:4443", KeyFile: "/k.json",
				StorageClass: "COLDLINE", KMSKey: "projects/p/locations/l/keyRings/r/cryptoKeys/k",
			},
		},
		"azblob://account/container":      {Azure: &azblob.Options{Account: "account", Container: "container"}},
		"azblob://acc0unt/con-tainer/a/b": {Azure: &azblob.Options{Account: "acc0unt", Container: "con-tainer", Prefix: "a/b"}},
		"azblob://account/container/p?endpoint=http://127.0.0.1:1/account&sas-file=/s&tier=Cool": {
			Azure: &azblob.Options{Account: "account", Container: "container", Prefix: "p", Endpoint: "http://127.0.0.1:1/account", SASFile: "/s", Tier: "Cool"},
		},
		"sftp://hf@host/backup//main/":    {SFTP: &sftp.Options{User: "hf", Host: "host", Dir: "/backup/main"}},
		"SFTP://u.x-1@[::1]:2222/~/a%20b": {SFTP: &sftp.Options{User: "u.x-1", Host: "::1", Port: 2222, Dir: "a b"}},
		"sftp://u@h/~/../x":               {SFTP: &sftp.Options{User: "u", Host: "h", Dir: "x"}},
		"sftp://u@h/x?identity-file=/k&identity-file=~/.ssh/l&known-hosts=/etc/known": {
			SFTP: &sftp.Options{User: "u", Host: "h", Dir: "/x", IdentityFiles: []string{"/k", "~/.ssh/l"}, KnownHosts: []string{"/etc/known"}},
		},
	} {
		got, err := open.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// Every bad URL is told what is wrong with it and what would be right.
func TestParseBad(t *testing.T) {
	for text, reason := range map[string]string{
		"":                                        "neither an absolute path",
		"relative/dir":                            "neither an absolute path",
		"~/backup":                                "neither an absolute path",
		"ftp://host/dir":                          "neither an absolute path",
		"https://bucket.s3.amazonaws.com/x":       "neither an absolute path",
		"/":                                       "root of the file system",
		"file:///":                                "root of the file system",
		"file://host/dir":                         `the host "host"`,
		"file:relative":                           "two slashes",
		"file://":                                 "not absolute",
		"file:///a?x=y":                           "parameters",
		"file:///a#b":                             "after #",
		"file:///%zz":                             "cannot be read",
		"s3:bucket":                               "two slashes",
		"s3://":                                   "no bucket",
		"s3:///prefix":                            "no bucket",
		"s3://ab":                                 "2 characters",
		"s3://Bucket":                             `character 'B'`,
		"s3://host:9000/bucket":                   "port",
		"s3://bucket/a//b":                        "empty, . or ..",
		"s3://bucket/a/../b":                      "empty, . or ..",
		"s3://bucket/a%00":                        "character",
		"s3://bucket?regoin=x":                    `"regoin"`,
		"s3://bucket?region=x&region=y":           "2 values",
		"s3://bucket?region=":                     "empty one",
		"s3://bucket?a;b":                         "cannot be read",
		"s3://bucket?path-style=maybe":            "maybe",
		"s3://bucket?endpoint=host":               "not http(s)://host",
		"s3://bucket?endpoint=https://h/x":        "more follows",
		"s3://bucket?endpoint=https://h:x":        "not http(s)://host",
		"s3://bucket?endpoint=https://h:0x10":     "not http(s)://host",
		"s3://bucket?ca-file=ca.pem":              "not an absolute path",
		"s3://bucket?storage-class=GLACIER":       "cannot be read at once",
		"s3://bucket?sse=none":                    "none",
		"s3://bucket?kms-key=k":                   "needs sse",
		"s3://bucket#x":                           "after #",
		"gs:bucket":                               "two slashes",
		"gs://":                                   "no bucket",
		"gs://ab":                                 "2 characters",
		"gs://Bucket":                             `character 'B'`,
		"gs://host:443/bucket":                    "port",
		"gs://bucket/a//b":                        "empty, . or ..",
		"gs://bucket?region=x":                    `"region"`,
		"gs://bucket?kms-key=x&kms-key=y":         "2 values",
		"gs://bucket?key-file=k.json":             "not an absolute path",
		"gs://bucket?storage-class=GLACIER":       "cannot be read at once",
		"gs://bucket?endpoint=http://h":           "plain text",
		"gs://bucket?endpoint=https://h/x":        "more follows",
		"gs://bucket#x":                           "after #",
		"azblob:account":                          "two slashes",
		"azblob://":                               "no account",
		"azblob://account":                        "no container",
		"azblob://account/":                       "no container",
		"azblob://Account/container":              `character 'A'`,
		"azblob://ab/container":                   "2 characters",
		"azblob://a.blob.core.windows.net/c":      "a server stands",
		"azblob://account/c_ntainer":              `character '_'`,
		"azblob://account/-container":             "dash",
		"azblob://account/con--tainer":            "dash",
		"azblob://account/ab":                     "2 characters",
		"azblob://account/container/a/../b":       "empty, . or ..",
		"azblob://account/container/a./b":         "ends in a dot",
		"azblob://account/container?tier=Archive": "cannot be read at once",
		"azblob://account/container?profile=x":    `"profile"`,
		"azblob://account/container?key-file=/k&sas-file=/s":  "both",
		"azblob://account/container?endpoint=http://10.0.0.1": "plain text",
		"sftp:u@host/x":                     "two slashes",
		"sftp://host/x":                     "no user",
		"sftp://u@/x":                       "no host",
		"sftp://u@-oProxyCommand=x/x":       "no host",
		"sftp://u@host":                     "there is none",
		"sftp://u@host/":                    "no directory",
		"sftp://u@host/~/":                  "no directory",
		"sftp://u@host/a%00":                "cannot be printed",
		"sftp://u@host:0/x":                 "port",
		"sftp://u@host:70000/x":             "port",
		"sftp://u@host/x#y":                 "after #",
		"sftp://u@host/x?port=22":           `"port"`,
		"sftp://u@host/x?identity-file=key": "no absolute path",
		"sftp://u@host/x?known-hosts=":      "no absolute path",
	} {
		_, err := open.Parse(text)
		if err == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: got %q, want it to say %q", text, err, reason)
		}
		if dr.Advice(err) == "" {
			t.Errorf("%s: no next step in %q", text, err)
		}
	}
}

// No error repeats a secret that somebody put into a URL.
func TestParseSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		"s3://key:hunter2@bucket/x", "s3://key:hunter2@bucket/%zz", "s3://hunter2@bucket", "file://u:hunter2@/x",
		"s3://bucket?secret-key=hunter2", "s3://bucket?AWS_SECRET_ACCESS_KEY=hunter2&nonsense=1", "s3://B?token=hunter2",
		"s3://bucket?access-key=hunter2", "s3://bucket?endpoint=https://u:hunter2@host", "s3://bucket?X-Amz-Signature=hunter2",
		"minio://key:hunter2@host/bucket", "minio:key:hunter2@x", "https://host/?password=hunter2",
		"sftp://u:hunter2@host/x", "sftp://u%3Ahunter2@host/x", "sftp://u:x@hunter2@host/x", "sftp://u:hun/hunter2@host/x",
		"gs://key:hunter2@bucket/x", "gs://bucket?token=hunter2", "gs://bucket?private-key=hunter2", "gs://bucket?endpoint=https://u:hunter2@host",
		"azblob://account:hunter2@x/container", "azblob://account/container?sv=2026-06-06&sig=hunter2", "azblob://account/container?key=hunter2",
		"azblob://account/container?endpoint=https://account.blob.core.windows.net?sig=hunter2", "azblob://ACCOUNT/container?sig=hunter2",
		"sftp://u:1/hunter2@host/x", "sftp://u@host/x?password=hunter2", "sftp://u@host/x?passphrase=hunter2", "sftp://u:hunter2@/x", "sftp://:hunter2@h/%zz",
	} {
		_, err := open.Parse(text)
		if err == nil {
			t.Errorf("%s: accepted", text)
		} else if strings.Contains(err.Error()+dr.Advice(err), secret) {
			t.Errorf("the error repeats the secret: %q", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/a", "file:///a%20b", "s3://bucket/p?endpoint=https://h:1&path-style=1", "s3://u:p@b", "s3://b/%2e%2e/?sse=AES256", "sftp://u@h:2222/~/a?identity-file=/k", "gs://bucket/p?key-file=/k", "azblob://account/container/p?sas-file=/s&tier=Hot"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := open.Parse(text)
		if err != nil {
			var fail *dr.Failure
			if !errors.As(err, &fail) || fail.Reason == "" || fail.Next == "" {
				t.Errorf("%q: error without reason or next step: %#v", text, err)
			}
			return
		}
		switch {
		case l.Dir != "":
			if !filepath.IsAbs(l.Dir) || l.Dir != filepath.Clean(l.Dir) || l.Dir == "/" {
				t.Errorf("%q: directory %q", text, l.Dir)
			}
			again, err := open.Parse((&url.URL{Scheme: "file", Path: l.Dir}).String())
			if err != nil || again != l {
				t.Errorf("%q: written as a URL again: %v, %v", text, again, err)
			}
		case l.SFTP != nil:
			if l.SFTP.User == "" || l.SFTP.Host == "" || path.Clean(l.SFTP.Dir) != l.SFTP.Dir || strings.HasPrefix(l.SFTP.Dir, "..") {
				t.Errorf("%q: %+v", text, *l.SFTP)
			}
		case l.GCS != nil:
			if l.GCS.Bucket == "" || strings.Trim(l.GCS.Prefix, "/") != l.GCS.Prefix {
				t.Errorf("%q: %+v", text, *l.GCS)
			}
		case l.Azure != nil:
			if l.Azure.Account == "" || l.Azure.Container == "" || strings.Contains(l.Azure.Container, "/") || strings.Trim(l.Azure.Prefix, "/") != l.Azure.Prefix {
				t.Errorf("%q: %+v", text, *l.Azure)
			}
		case l.S3.Bucket == "" || strings.HasPrefix(l.S3.Prefix, "/") || strings.HasSuffix(l.S3.Prefix, "/"):
			t.Errorf("%q: bucket %q, prefix %q", text, l.S3.Bucket, l.S3.Prefix)
		}
	})
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := open.Store(t.Context(), dir, open.Options{}); err == nil || dr.Advice(err) == "" {
		t.Errorf("a missing directory: got %v, want an error with a next step", err)
	}
	for range 2 {
		s, err := open.Create(t.Context(), "file://"+dir, open.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), "x", nil); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A program's way to a bucket: everything from the URL and the environment.
func TestStoreS3(t *testing.T) {
	srv := storetest.S3(t)
	t.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	s, err := open.Store(t.Context(), "s3://"+srv.Bucket+"/in/it?endpoint="+url.QueryEscape(srv.Endpoint), open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "x/y", []byte("body")); err != nil {
		t.Fatal(err)
	}
	if got, err := srv.Open(t, "in/it").Get(t.Context(), "x/y", 10); err != nil || string(got) != "body" {
		t.Errorf("got %q, %v", got, err)
	}
	if strings.Contains(s.String(), srv.SecretKey) {
		t.Errorf("the store's name holds the secret: %s", s)
	}
}

// A program's way to the buckets of others: everything from the URL and the environment.
func TestStoreClouds(t *testing.T) {
	g := storetest.GCS(t)
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", g.KeyFile)
	written(t, "gs://"+g.Bucket+"/in/it?endpoint="+url.QueryEscape(g.Endpoint), g.Open(t, "in/it"))
	a := storetest.Azurite(t)
	t.Setenv("AZURE_STORAGE_KEY", a.Key)
	written(t, "azblob://"+a.Account+"/"+a.Container+"/in/it?endpoint="+url.QueryEscape(a.Endpoint), a.Open(t, "in/it"))
}

// written wants an object that is written to a URL in a store.
func written(t *testing.T, url string, into store.Store) {
	t.Helper()
	s, err := open.Create(t.Context(), url, open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "x/y", []byte("body")); err != nil {
		t.Fatal(err)
	}
	if got, err := into.Get(t.Context(), "x/y", 10); err != nil || string(got) != "body" {
		t.Errorf("%s: got %q, %v", s, got, err)
	}
}

// A program's way to a server: everything from the URL.
func TestStoreSFTP(t *testing.T) {
	srv := storetest.SSHD(t)
	url := "sftp://" + srv.User + "@" + srv.Addr + srv.Dir + "/new/root?identity-file=" + url.QueryEscape(srv.Key) + "&known-hosts=" + url.QueryEscape(srv.KnownHosts)
	s, err := open.Store(t.Context(), url, open.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "x"); store.KindOf(err) != store.Denied || !strings.Contains(dr.Advice(err), "holdfast repo init") {
		t.Errorf("without the directory: got %v, want Denied with advice", err)
	}
	for range 2 {
		made, err := open.Create(t.Context(), url, open.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(made.Put(t.Context(), "x", []byte("body")), made.Close()); err != nil {
			t.Error(err)
		}
	}
	if got, err := s.Get(t.Context(), "x", 10); err != nil || string(got) != "body" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if want := "sftp://" + srv.User + "@" + srv.Addr + srv.Dir + "/new/root"; s.String() != want {
		t.Errorf("the store's name is %s, want %s", s, want)
	}
}
