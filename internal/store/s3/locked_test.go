package s3_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/s3"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

// lockedAs opens a store whose objects are retained for some hours.
func lockedAs(t *testing.T, srv *storetest.S3Server, user, prefix string, mode store.LockMode) *s3.Store {
	t.Helper()
	o := srv.As(user, prefix)
	o.Lock = store.Lock{Mode: mode, For: 3 * time.Hour}
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A store in a bucket where each object is retained is what every store is. (versitygw 1.8.0 refuses to create what was deleted.)
func TestConformanceMinioLocked(t *testing.T) {
	binary := os.Getenv("HOLDFAST_TEST_MINIO")
	if binary == "" {
		t.Skip("HOLDFAST_TEST_MINIO names no binary: make test-minio builds one")
	}
	srv := storetest.MinioLocked(t, binary)
	storetest.Conformance(t, func(t *testing.T) store.Store { return lockedAs(t, srv, "", t.Name(), store.Governance) })
	t.Run("versions", func(t *testing.T) { versions(t, lockedAs(t, srv, "", "versions", store.Compliance)) })
	t.Run("as of", func(t *testing.T) { asOf(t, lockedAs(t, srv, "", "as-of", store.Compliance)) })
	t.Run("rights", func(t *testing.T) {
		got, err := lockedAs(t, srv, "", "rights", store.Governance).Rights(t.Context())
		if err != nil || len(got.Excess) != 3 {
			t.Errorf("the owner: %+v, %v", got, err)
		}
	})
}

// What was there stays, and is found again, in the order in which it was, with nothing but a pruner's rights.
func TestVersions(t *testing.T) {
	t.Parallel()
	srv := storetest.S3Locked(t, "pruner")
	srv.Allow(t, "p", "pruner")
	versions(t, lockedAs(t, srv, "pruner", "p", store.Compliance))
}

// asOf looks at a name at moments between its changes.
func asOf(t *testing.T, s *s3.Store) {
	ctx := t.Context()
	var moments []time.Time
	pass := func() { // times are in whole seconds
		moments = append(moments, time.Now())
		for begin := time.Now(); time.Since(begin) < 2*time.Second; {
			if err := s.List(ctx, "", "", func(store.Info) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	changes := []error{s.Put(ctx, "other", nil)}
	pass()
	changes = append(changes, s.Put(ctx, "x", []byte("one")))
	pass()
	changes = append(changes, s.Put(ctx, "x", []byte("two")))
	pass()
	changes = append(changes, s.Delete(ctx, "x"))
	pass()
	changes = append(changes, s.Put(ctx, "x", []byte("three")))
	pass()
	if err := errors.Join(changes...); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "one", "two", "", "three"} {
		then := store.AsOf(s, moments[i].Add(500*time.Millisecond))
		got, err := then.Get(ctx, "x", 100)
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("as of change %d: %q, %v, want %q", i, got, err, want)
		}
		listed := false
		if err := then.List(ctx, "", "", func(i store.Info) error { listed = listed || i.Name == "x"; return nil }); err != nil || listed != (want != "") {
			t.Errorf("as of change %d: listed %v, %v", i, listed, err)
		}
	}
}

func versions(t *testing.T, s *s3.Store) {
	ctx := t.Context()
	for _, body := range []string{"first", "second one", ""} {
		if err := s.Put(ctx, "a/b", []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.Delete(ctx, "a/b"), s.Put(ctx, "a/b.c", []byte("other")), s.Put(ctx, "a/0", []byte("0"))); err != nil {
		t.Fatal(err)
	}
	vault := store.VaultOf(store.Retry(s, store.Budget{}))
	all, err := store.VersionsOf(ctx, vault, "a/b")
	if err != nil || len(all) != 4 || !all[0].Deleted || !all[0].Latest || all[3].Latest {
		t.Fatalf("versions %+v, %v", all, err)
	}
	var bodies []string
	for _, v := range all[1:] {
		b, err := store.Whole(ctx, vault, v, 100)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(b))
	}
	// The server tells times in whole seconds, or better.
	if slices.Sort(bodies); !slices.Equal(bodies, []string{"", "first", "second one"}) {
		t.Errorf("bodies %q", bodies)
	}
	var names []string
	err = vault.Versions(ctx, "a/", "a/0", func(v store.Version) error { names = append(names, v.Name); return nil })
	if err != nil || !slices.Equal(names, []string{"a/b", "a/b", "a/b", "a/b", "a/b.c"}) {
		t.Errorf("versions of %q, %v", names, err)
	}
	stop := errors.New("stop")
	if err := vault.Versions(ctx, "", "", func(store.Version) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
	if err := vault.GetVersion(ctx, all[3], 3, make([]byte, 10)); store.KindOf(err) != store.Damaged {
		t.Errorf("beyond the end: %v", err)
	}
	if err := vault.Retain(ctx, all[3], time.Now().Add(5*time.Hour)); err != nil {
		t.Errorf("retain for longer: %v", err)
	}
	if err := vault.Retain(ctx, all[3], time.Now().Add(time.Hour)); err == nil {
		t.Error("a retention was shortened")
	}
	then := store.AsOf(store.Retry(s, store.Budget{}), time.Now().Add(time.Hour))
	if b, err := then.Get(ctx, "a/b.c", 100); err != nil || string(b) != "other" {
		t.Errorf("as of now: %q, %v", b, err)
	}
	if _, err := then.Stat(ctx, "a/b"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("as of now, of what was deleted: %v", err)
	}
}

// A listing of more versions than fit into one answer is told once, and whole.
func TestManyVersions(t *testing.T) {
	t.Parallel()
	srv := storetest.S3Locked(t)
	s := srv.Open(t, "p")
	const names, each = 12, 90
	for range each {
		for n := range names {
			if err := s.Put(t.Context(), "v/"+string(rune('a'+n)), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	var seen []string
	err := s.Vault().Versions(t.Context(), "v/", "", func(v store.Version) error {
		seen = append(seen, v.Name)
		return nil
	})
	if err != nil || len(seen) != names*each || !slices.IsSorted(seen) {
		t.Errorf("%d versions, sorted %v, %v", len(seen), slices.IsSorted(seen), err)
	}
}

// A thief has the writer's credentials, and tries everything.
func TestThief(t *testing.T) {
	t.Parallel()
	srv := storetest.S3Locked(t, "writer")
	srv.Allow(t, "p", "writer")
	for mode, name := range map[store.LockMode]string{store.Governance: "packs/g", store.Compliance: "packs/c"} {
		t.Run(string(mode), func(t *testing.T) { theft(t, srv, mode, name) })
	}
}

func theft(t *testing.T, srv *storetest.S3Server, mode store.LockMode, name string) {
	ctx := t.Context()
	s := lockedAs(t, srv, "writer", "p", mode)
	if err := s.Put(ctx, name, []byte("precious")); err != nil {
		t.Fatal(err)
	}
	was, err := store.VersionsOf(ctx, s.Vault(), name)
	if err != nil || len(was) != 1 {
		t.Fatalf("%+v, %v", was, err)
	}
	thief := srv.Client("writer")
	bucket, key, id := &srv.Bucket, aws.String("p/"+name), &was[0].ID
	soon := aws.Time(time.Now().Add(time.Minute).UTC())
	retention := func(m types.ObjectLockRetentionMode, bypass *bool) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := thief.PutObjectRetention(ctx, &awss3.PutObjectRetentionInput{
				Bucket: bucket, Key: key, VersionId: id, BypassGovernanceRetention: bypass,
				Retention: &types.ObjectLockRetention{Mode: m, RetainUntilDate: soon},
			})
			return err
		}
	}
	for what, try := range map[string]func(context.Context) error{
		"delete": func(ctx context.Context) error {
			_, err := thief.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: key})
			return err
		},
		"delete the version": func(ctx context.Context) error {
			_, err := thief.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: key, VersionId: id})
			return err
		},
		"bypass governance": func(ctx context.Context) error {
			_, err := thief.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: bucket, Key: key, VersionId: id, BypassGovernanceRetention: aws.Bool(true)})
			return err
		},
		"delete many": func(ctx context.Context) error {
			out, err := thief.DeleteObjects(ctx, &awss3.DeleteObjectsInput{Bucket: bucket, BypassGovernanceRetention: aws.Bool(true), Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: key, VersionId: id}}}})
			if err == nil && len(out.Errors) > 0 {
				return errors.New(aws.ToString(out.Errors[0].Code))
			}
			return err
		},
		"shorten":                      retention(types.ObjectLockRetentionModeGovernance, nil),
		"shorten the compliance":       retention(types.ObjectLockRetentionModeCompliance, nil),
		"shorten and bypass":           retention(types.ObjectLockRetentionModeGovernance, aws.Bool(true)),
		"shorten to another mode, too": retention(types.ObjectLockRetentionModeCompliance, aws.Bool(true)),
		"suspend versioning": func(ctx context.Context) error {
			_, err := thief.PutBucketVersioning(ctx, &awss3.PutBucketVersioningInput{Bucket: bucket, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusSuspended}})
			return err
		},
		"lifecycle rule": func(ctx context.Context) error {
			_, err := thief.PutBucketLifecycleConfiguration(ctx, &awss3.PutBucketLifecycleConfigurationInput{
				Bucket: bucket, LifecycleConfiguration: &types.BucketLifecycleConfiguration{Rules: []types.LifecycleRule{{
					Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: aws.String("")},
					Expiration: &types.LifecycleExpiration{Days: aws.Int32(1)}, NoncurrentVersionExpiration: &types.NoncurrentVersionExpiration{NoncurrentDays: aws.Int32(1)},
				}}},
			})
			return err
		},
		"default retention": func(ctx context.Context) error {
			_, err := thief.PutObjectLockConfiguration(ctx, &awss3.PutObjectLockConfigurationInput{Bucket: bucket, ObjectLockConfiguration: &types.ObjectLockConfiguration{ObjectLockEnabled: types.ObjectLockEnabledEnabled}})
			return err
		},
		"policy": func(ctx context.Context) error {
			_, err := thief.DeleteBucketPolicy(ctx, &awss3.DeleteBucketPolicyInput{Bucket: bucket})
			return err
		},
		"bucket": func(ctx context.Context) error {
			_, err := thief.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: bucket})
			return err
		},
	} {
		if err := try(ctx); err == nil {
			t.Errorf("a thief may: %s", what)
		}
	}
	// That he can, and it takes nothing away.
	if _, err := thief.PutObject(ctx, &awss3.PutObjectInput{Bucket: bucket, Key: key, Body: strings.NewReader("garbage")}); err != nil {
		t.Errorf("overwrite: %v", err)
	}
	if b, err := store.Whole(ctx, s.Vault(), was[0], 100); err != nil || string(b) != "precious" {
		t.Errorf("afterwards: %q, %v", b, err)
	}
	if now, err := store.VersionsOf(ctx, s.Vault(), name); err != nil || len(now) != 2 {
		t.Errorf("afterwards %+v, %v", now, err)
	}
}

// Credentials that can do more than they should are found out, and those that cannot are not.
func TestRights(t *testing.T) {
	t.Parallel()
	srv := storetest.S3Locked(t, "writer", "pruner", "reader")
	srv.Allow(t, "p", "writer", "pruner", "reader")
	for _, user := range []string{"writer", "pruner"} {
		s := lockedAs(t, srv, user, "p", store.Governance)
		settings, err := s.Settings(t.Context())
		if err != nil || !settings.Versioning || !settings.ObjectLock {
			t.Errorf("%s: %+v, %v", user, settings, err)
		}
		if got, err := s.Rights(t.Context()); err != nil || len(got.Excess) > 0 || len(got.Lacking) != 3 {
			t.Errorf("%s: %+v, %v", user, got, err)
		}
	}
	owner := srv.Options("p")
	owner.Lock = store.Lock{Mode: store.Governance, For: time.Hour}
	s, err := s3.Open(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Rights(t.Context())
	if err != nil || len(got.Excess) != 3 {
		t.Errorf("the owner: %+v, %v", got, err)
	}
	if settings, err := s.Settings(t.Context()); err != nil || !settings.Versioning {
		t.Errorf("afterwards: %+v, %v", settings, err)
	}
	reader := lockedAs(t, srv, "reader", "p", store.Governance)
	if err := reader.Put(t.Context(), "packs/x", nil); store.KindOf(err) != store.Denied {
		t.Errorf("a reader writes: %v", err)
	}
	if err := reader.List(t.Context(), "", "", func(store.Info) error { return nil }); err != nil {
		t.Errorf("a reader lists: %v", err)
	}
}
