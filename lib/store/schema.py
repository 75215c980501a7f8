"""The ledger's tables: what is known of images, label versions, leases and models, and what happened.

Files are the data, the ledger is what is known about them. Times are seconds since the epoch (UTC). Nothing but
`lib.store` reads or writes these tables.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import TEXT

SCHEMA_VERSION = 2  # after a change to a table, `lib.store.migrations` says how to get there

metadata = MetaData()

# Compared by code point on every database: a rescan walks sorted names and sorted rows side by side.
_Name = Text().with_variant(TEXT(collation="C"), "postgresql")
# None is NULL, not the text "null", so that a query can tell what is not known.
_Json = JSON(none_as_null=True)
# SQLite counts its keys up only where they are plain INTEGER.
_Key = BigInteger().with_variant(Integer, "sqlite")

facts = Table(
    "facts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    comment="single values: the schema's version, the studies folder this ledger belongs to",
)

images = Table(
    "images",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("suffix", Text, nullable=False),
    Column("size", BigInteger, nullable=False, comment="bytes, when the file was last looked at"),
    Column("modified_ns", BigInteger, nullable=False, comment="of the file, when last looked at"),
    Column("present", Boolean, nullable=False, default=True, comment="the file is there"),
    Column("problem", Text, comment="why it can't be offered: unreadable, not a CT, the same as another"),
    Column("excluded", Text, comment="the reason somebody gave for leaving it out"),
    Column("labelled", Boolean, nullable=False, default=False, comment="has a label with the tag final"),
    Column("open", Boolean, nullable=False, default=True, comment="to be labelled: present, fit, not excluded"),
    Column("fingerprint", Text, comment="hash of parts of the content; equal ones are compared in full"),
    Column("sha256", Text, comment="of the whole content, where it was needed"),
    Column("grid", _Json, comment='{"shape": [x, y, z], "affine": 4 x 4 RAS+ mm}, by the header'),
    Column("shuffle", Double, nullable=False, comment="a fixed random place in [0, 1)"),
    Column("served_at", Double, nullable=False, default=0.0, comment="when it was last handed out, 0 if never"),
    Column("scored", Boolean, nullable=False, server_default=false(), comment="has a row in `scores`"),
    Column(
        "to_review",
        Double,
        comment="place among the final labels to be reviewed, the highest first; none: reviewed, or no such label",
    ),
    Column("info", _Json, nullable=False, comment="what clients and tasks noted"),
    Column("added_at", Double, nullable=False),
)
# Only images in the pool are indexed for choosing, so that a choice costs the same at any size. A bare column would
# become `WHERE open`, which SQLite does not recognize in the `open = 1` of queries.
_OPEN = images.c.open == true()
for _name, _columns in {
    "pool_by_name": (images.c.served_at, images.c.image_id),
    "pool_by_turn": (
        images.c.served_at,
        images.c.shuffle,
        # What a choice reads, so that it needs no page of the table; SQLite wants `open` among it.
        images.c.image_id,
        images.c.open,
    ),
}.items():
    Index(_name, *_columns, sqlite_where=_OPEN, postgresql_where=_OPEN)
NOT_SCORED = and_(_OPEN, images.c.scored == false())
FETCHED = images.c.size > literal_column("0")  # not a bound value, which no partial index can be compared with
Index("pool_not_scored", images.c.image_id, sqlite_where=NOT_SCORED, postgresql_where=NOT_SCORED)
_AT_HAND = and_(NOT_SCORED, FETCHED)
Index("pool_not_scored_fetched", images.c.image_id, sqlite_where=_AT_HAND, postgresql_where=_AT_HAND)
REVIEWABLE = and_(
    images.c.labelled,
    images.c.to_review.is_not(None),
    images.c.present,
    images.c.problem.is_(None),
    images.c.excluded.is_(None),
)
Index(
    "pool_for_review",
    images.c.to_review,
    sqlite_where=REVIEWABLE,
    postgresql_where=REVIEWABLE,
)
Index("images_by_fingerprint", images.c.fingerprint)
Index("images_not_offered", images.c.image_id, sqlite_where=~images.c.present, postgresql_where=~images.c.present)
Index(
    "images_excluded",
    images.c.image_id,
    sqlite_where=images.c.excluded.is_not(None),
    postgresql_where=images.c.excluded.is_not(None),
)

versions = Table(
    "versions",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("image_id", _Name, nullable=False),
    Column("tag", Text, nullable=False),
    Column("number", Integer, nullable=False, comment="1, 2, ... for each image and tag"),
    Column("file", Text, nullable=False, unique=True, comment="relative to the folder of versions"),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("sent", Text, comment="the file as it came, beside `file`, where its bytes are others"),
    Column("author", Text, nullable=False, comment="client id or user, or who else brought it here"),
    Column(
        "source", Text, nullable=False, comment="client, model, adopted, found, remapped, restored, imported or pacs"
    ),
    Column("saved_at", Double, nullable=False),
    Column("seconds_since_lease", Double),
    Column("model_version", Text, comment="of the model that pre-segmented it"),
    Column("restored_from", Integer, comment="the number of the version this one repeats"),
    Column("voxels", _Json, comment="{class: count}; none for an adopted label of unknown meaning"),
    Column("ml", _Json, comment="{class: volume}"),
    Column("against_presegmentation", _Json, comment='{class: {"dice": 0..1, "changed_ml": ml}}'),
    Column("against_previous", _Json, comment="the same against the version before"),
    Column("change", Double, comment="1 - lowest Dice against the pre-segmentation, else the version before"),
    Column("info", _Json, nullable=False, comment="what the client sent along"),
    UniqueConstraint("image_id", "tag", "number"),
    comment="only ever added to",
)

labels = Table(
    "labels",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("suffix", Text, nullable=False),
    Column("version_id", _Key, ForeignKey("versions.id"), comment="none: lies in the folder, not taken in yet"),
    Column("problem", Text, comment="why the file in the folder was not taken in"),
    Column("info", _Json, comment="what MONAI Label's own store noted about a label not taken in yet"),
    Column("shown_size", BigInteger, comment="of the file in labels/<tag>/; none: still to be written"),
    Column("shown_modified_ns", BigInteger),
    comment="the label that labels/<tag>/ shows for an image",
)
Index("labels_by_tag", labels.c.tag, labels.c.image_id)
Index("labels_by_version", labels.c.version_id)
_WAITING = or_(
    and_(labels.c.version_id.is_(None), labels.c.problem.is_(None)),
    and_(labels.c.version_id.is_not(None), labels.c.shown_size.is_(None)),
)
Index("labels_waiting", labels.c.image_id, sqlite_where=_WAITING, postgresql_where=_WAITING)

presegmentations = Table(
    "presegmentations",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("client_id", Text, primary_key=True),
    Column("model_version", Text, nullable=False),
    Column("file", Text, nullable=False, comment="relative to the folder of pre-segmentations"),
    Column("made_at", Double, nullable=False),
    comment="the last automatic result each client got for an image",
)

leases = Table(
    "leases",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="why this image, in words"),
    Column("score", Double),
    Column("part", Text, nullable=False, server_default="", comment="of the strategy, which chose it"),
    Column("slices", _Json, comment="[{label, first, last, share}, ...] to look at"),
    Column("acquired_at", Double, nullable=False),
    Column("renewed_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)
Index("leases_by_client", leases.c.client_id)
Index("leases_by_expiry", leases.c.expires_at)

picks = Table(
    "picks",
    metadata,
    Column("strategy", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("count", Integer, nullable=False),
    comment="how many images each part of a strategy has chosen",
)

scores = Table(
    "scores",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("model_version", _Name, nullable=False, comment="of the model that scored it last"),
    Column("scored_at", Double, nullable=False),
    Column("seconds", Double, comment="that it took; none: it was a by-product of a segmentation"),
    Column("problem", Text, comment="why it can't be scored; there are no figures then"),
    Column("figures", _Json, comment="of lib.case_scores without the next one"),
    Column("embedding", LargeBinary, comment="float16, little endian"),
    Column("open", Boolean, nullable=False, comment="as in `images`"),
    # Last, as it is long: what is read of many images lies before it.
    Column("profile", _Json, comment="the uncertainty of each slice, which is read for one image at a time only"),
    comment="what a model shows of an image; kept when that is labelled, see lib.store.scores",
)
_TO_SCORE_AGAIN = scores.c.open == true()
Index(
    "scores_by_version",
    scores.c.model_version,
    scores.c.scored_at,
    scores.c.image_id,
    scores.c.open,
    sqlite_where=_TO_SCORE_AGAIN,
    postgresql_where=_TO_SCORE_AGAIN,
)

rankings = Table(
    "rankings",
    metadata,
    Column("image_id", _Name, primary_key=True),
    Column("kind", _Name, primary_key=True, comment="of the score, see lib.store.scores"),
    Column("model_version", _Name, nullable=False),
    Column("value", Double, nullable=False),
    Column("fresh", Boolean, nullable=False, comment="the image is to be labelled and was never handed out"),
    comment="the scores by which images are found; they follow from `scores`",
)
_FRESH = rankings.c.fresh == true()
Index(
    "rankings_by_value",
    rankings.c.kind,
    rankings.c.model_version,
    rankings.c.value,
    rankings.c.image_id,
    rankings.c.fresh,
    sqlite_where=_FRESH,
    postgresql_where=_FRESH,
)

splits = Table(
    "splits",
    metadata,
    Column("patient", Text, primary_key=True, comment="hash with the ledger's salt, see lib.store.splits"),
    Column("side", Text, nullable=False, comment="training or validation, for good"),
    Column("decided_at", Double, nullable=False),
)

series = Table(
    "series",
    metadata,
    Column("image_id", _Name, primary_key=True, comment="its Series Instance UID"),
    Column("study_uid", Text, nullable=False),
    Column("key", Text, comment="of the objects that the volume was made of; none: never fetched"),
    Column("instances", Integer, comment="objects in the series when it was last listed, where the PACS says so"),
    Column("listed_at", Double, nullable=False, comment="when the PACS last listed it"),
    comment="the images that are series of a PACS, see lib.store.pacs_images",
)
Index("series_by_study", series.c.study_uid)
Index("series_by_listing", series.c.listed_at)

segs = Table(
    "segs",
    metadata,
    Column("sop_uid", Text, primary_key=True),
    Column("series_uid", Text, nullable=False),
    Column("image_id", _Name, nullable=False, comment="of the series it was made for; empty where that is not known"),
    Column("version_id", _Key, comment="what was sent, or what it became; none: nothing yet, or nothing for good"),
    Column("direction", Text, nullable=False, comment="sent or found"),
    Column("problem", Text, comment="why it was refused, by the PACS or by us"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_try_at", Double, comment="none: done, well or not"),
    Column("at", Double, nullable=False),
    comment="DICOM SEGs that were sent to a PACS or found in it, see lib.store.segs",
)
Index("segs_by_image", segs.c.image_id)
Index("segs_by_series", segs.c.series_uid)

models = Table(
    "models",
    metadata,
    Column("id", Text, primary_key=True, comment="the version"),
    Column("made_at", Double, nullable=False),
    Column("parent", Text, comment="the version that its training started from; none: fresh weights"),
    Column("published_at", Double, comment="when annotators last got it; none: never"),
    Column("published_by", Text),
    Column("reason", Text, comment="why it was published, or why not"),
    Column("sha256", Text, nullable=False, comment="of the weights file"),
    Column("metrics", _Json, nullable=False, comment="{figure: value}"),
    comment="an index of the versions in the app's folder, see lib.store.models",
)

trainings = Table(
    "trainings",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("by_itself", Boolean, nullable=False, comment="started by a server, not asked for"),
    Column("started_at", Double, nullable=False),
    Column("alive_at", Double, nullable=False, comment="when its process last said that it goes on"),
    Column("ended_at", Double, comment="none: it goes on, or it was killed"),
    Column("labels_up_to", BigInteger, comment="the last label version that it knew of; none: it has not looked yet"),
    Column("succeeded", Boolean, comment="it came to its end, published or not; none: it has not ended"),
    Column("result", Text, comment="what became of it, in one sentence"),
    Column("version", Text, comment="of the model that it made"),
    Column("published", Boolean),
    comment="the trainings that servers ran, see lib.store.trainings",
)

users = Table(
    "users",
    metadata,
    Column("key", _Name, primary_key=True, comment="the name without upper case, see lib.access.names"),
    Column("name", Text, nullable=False, comment="as it is shown"),
    Column("role", Text, nullable=False, comment="annotator, reviewer or admin"),
    Column("password_hash", Text, nullable=False, comment="argon2id with its salt and parameters"),
    Column("created_at", Double, nullable=False),
    Column("password_changed_at", Double, nullable=False),
    Column("disabled_at", Double, comment="none: may log in"),
    comment="who may log in; never deleted, so that a name stays one person's, see lib.store.accounts",
)

tokens = Table(
    "tokens",
    metadata,
    Column("sha256", Text, primary_key=True, comment="of the token, which is not kept"),
    Column("user_key", _Name, ForeignKey("users.key"), nullable=False),
    Column("issued_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("revoked_at", Double, comment="none: it counts until it expires"),
    Column("last_used_at", Double, comment="to some minutes; none: never"),
    Column("address", Text, nullable=False, comment="from where its user logged in"),
    comment="who is logged in; those that ended a week ago are dropped",
)
Index("tokens_by_user", tokens.c.user_key)
Index("tokens_by_expiry", tokens.c.expires_at)

events = Table(
    "events",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False, comment="such as 'image vanished' or 'label refused'"),
    Column("image_id", _Name),
    Column("tag", Text),
    Column("actor", Text, nullable=False),
    Column("detail", _Json, nullable=False),
    comment="only ever added to",
)
Index("events_by_image", events.c.image_id)
Index("events_by_kind", events.c.kind, events.c.id)
