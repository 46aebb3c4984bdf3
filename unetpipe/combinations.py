"""What no single setting shows: settings that do not go together."""

from collections.abc import Collection

from unetpipe.config import PHANTOM, Instances, Network, Phantom, Problem, Settings, Volume
from unetpipe.config.learning import passes_before_focus
from unetpipe.grid import AXES, Region, Shape


def combinations(settings: Settings) -> list[Problem]:
    """What is wrong with settings each of which could be right."""
    problems: list[Problem] = []
    problems += _class_problems(settings)
    for name, volume in settings.volumes.items():
        of_volume = _volume_problems(settings, volume) + _label_problems(settings, volume)
        problems += [(f"volumes.{name}.{key}", text) for key, text in of_volume]
    if settings.instances is not None:
        problems += _instance_problems(settings.instances, settings.classes)
    of_network = network_problems(settings.network)
    problems += of_network
    # A model brings its own network, which the settings do not show.
    if not of_network and settings.model is None:
        problems += tile_problems(settings, settings.network) + mirror_problems(settings, settings.network)
    problems += _address_problems(settings)
    trains = settings.named("train")
    if settings.model is None and not trains:
        problems.append(("volumes", "no volume has the role train, and no model is given"))
    problems += _training_problems(settings)
    if not settings.named("validate", "test", "predict"):
        problems.append(("volumes", "no volume has the role validate, test or predict: nothing would be segmented"))
    if settings.phantom is not None:
        problems += _phantom_problems(settings.phantom)
    border = settings.augment.border_class
    if border is not None and border not in settings.classes:
        problems.append(("augment.border_class", f"{border!r} is none of the classes {', '.join(settings.classes)}"))
    problems += [
        (f"augment.class_weights.{name}", f"is none of the classes {', '.join(settings.classes)}")
        for name in settings.augment.class_weights or {}
        if name not in settings.classes
    ]
    objects = settings.evaluate.objects
    if objects is not None and objects not in settings.classes:
        problems.append(("evaluate.objects", f"{objects!r} is none of the classes {', '.join(settings.classes)}"))
    if settings.evaluate.compared_with is not None and not any(
        volume.labels_are == "instances" and volume.role in ("validate", "test") for volume in settings.volumes.values()
    ):
        problems.append(
            ("evaluate.compared_with", "asks for SEG, and no volume to validate or test has labels that are instances")
        )
    problems += _segment_problems(settings)
    problems += _spreading_problems(settings)
    if settings.predict.batch is not None and settings.predict.batch > settings.engine.max_batch:
        problems.append(
            (
                "predict.batch",
                f"{settings.predict.batch} is more than engine.max_batch, {settings.engine.max_batch}",
            )
        )
    return problems


def _spreading_problems(settings: Settings) -> list[Problem]:
    """Two ways to spread a prediction at once, or settings of the one that is not taken."""
    predict = settings.predict
    problems: list[Problem] = []
    if predict.slurm is not None and predict.cluster != "slurm":
        problems.append(
            ("predict.slurm", f"has no meaning with predict.cluster {predict.cluster}: set that to `slurm`")
        )
    if predict.cluster == "local":
        return problems
    if predict.jobs > 1:
        found = f"{predict.jobs} jobs would each drive workers of predict.cluster {predict.cluster}"
        problems.append(("predict.jobs", f"{found}: leave it out, and have more workers"))
    if predict.workers is not None:
        more = "predict.slurm.workers" if predict.cluster == "slurm" else "the number of the scheduler's workers"
        problems.append(("predict.workers", f"is for the machine of the job; with {predict.cluster}, set {more}"))
    return problems


def _segment_problems(settings: Settings) -> list[Problem]:
    """A class of the objects, or a way to their threshold, that there is not."""
    if settings.segment is None:
        return []
    objects = settings.segment.objects
    if objects is not None and objects not in settings.classes:
        return [("segment.objects", f"{objects!r} is none of the classes {', '.join(settings.classes)}")]
    own = settings.segment
    if own.threshold != "validation":
        if own.method != "watershed" or own.seeds >= own.threshold:
            return []
        found = f"{own.seeds} is below segment.threshold, {own.threshold}: seeds grow downwards"
        return [("segment.seeds", found)]
    problems = []
    scored = settings.evaluate.objects or list(settings.classes)[-1]
    if settings.segmented != scored:
        found = f"{settings.segmented!r}, but the threshold `validation` is that of {scored} (evaluate.objects)"
        problems.append(("segment.objects", f"{found}: give a number, or the same class in both places"))
    if not settings.named("validate"):
        problems.append(("segment.threshold", "`validation` needs a volume with the role validate: give a number"))
    return problems


def _training_problems(settings: Settings) -> list[Problem]:
    train = settings.train
    if settings.model is not None:
        asked = {"init": train.init is not None, "tensorboard": train.tensorboard}
        return [
            (f"train.{key}", "has no meaning beside `model`, with which nothing is trained")
            for key, there in asked.items()
            if there
        ]
    problems: list[Problem] = []
    if train.batch % train.processes:
        found = f"{train.processes} processes cannot share a batch of {train.batch} samples (train.batch)"
        problems.append(("train.processes", f"{found}: it must be a multiple of them"))
    if train.average > train.steps:
        found = f"{train.average} is more than train.steps, {train.steps}"
        problems.append(("train.average", f"{found}: the first weights would count nearly as much as the last"))
    taken, samples = train.steps * train.batch, settings.augment.samples
    if train.focus and taken <= (passes := passes_before_focus(samples, train.batch)) * samples:
        found = f"begins after {passes} passes over the {samples} samples (augment.samples); {taken} are taken in all"
        problems.append(("train.focus", f"{found}: train for more steps, draw fewer samples, or leave it out"))
    return problems


def _class_problems(settings: Settings) -> list[Problem]:
    mappings = {"classes": settings.classes} | {
        f"volumes.{name}.label_values": volume.label_values
        for name, volume in settings.volumes.items()
        if volume.label_values is not None
    }
    problems: list[Problem] = []
    if len(settings.classes) > 254:
        problems.append(
            (
                "classes",
                f"{len(settings.classes)} classes; at most 254 fit into a byte beside the ignore label",
            )
        )
    for path, mapping in mappings.items():
        owner = dict.fromkeys(settings.ignore, "ignore")
        for name, values in mapping.items():
            if name not in settings.classes:
                problems.append((f"{path}.{name}", f"is none of the classes {', '.join(settings.classes)}"))
            for value in values:
                if value in owner:
                    problems.append((f"{path}.{name}", f"the label value {value} belongs to {owner[value]} already"))
                owner.setdefault(value, name)
        problems += [(f"{path}.{name}", "has no label values") for name in settings.classes if name not in mapping]
    read = [volume for volume in settings.volumes.values() if volume.labels is not None]
    if any(volume.labels_are == "classes" and volume.label_values is None for volume in read):
        problems += [
            (f"classes.{name}", "has no label values") for name, values in settings.classes.items() if not values
        ]
    return problems


def _volume_problems(settings: Settings, volume: Volume) -> list[Problem]:
    problems: list[Problem] = []
    if volume.labels is None and volume.role in ("train", "validate", "test"):
        problems.append(("labels", f"are required for the role {volume.role}"))
    if volume.sections is not None and volume.sections[0] >= volume.sections[1]:
        problems.append(("sections", f"[{volume.sections[0]}, {volume.sections[1]}) holds no section"))
    if volume.region is not None:
        problems += [("region", text) for text in region_problems(Region.between(volume.region))]
    if volume.role == "train":
        problems += [
            (key, "has no meaning for a volume to train on, which is not predicted")
            for key, value in (("region", volume.region), ("mask", volume.mask))
            if value is not None
        ]
    if volume.range is not None and volume.range[0] >= volume.range[1]:
        problems.append(("range", f"the low end {volume.range[0]} is not below the high end {volume.range[1]}"))
    if (volume.image == PHANTOM or volume.labels == PHANTOM) and settings.phantom is None:
        problems.append(("image", "is the phantom, but the settings `phantom` are missing"))
    return problems


def _label_problems(settings: Settings, volume: Volume) -> list[Problem]:
    problems: list[Problem] = []
    instances = volume.labels_are == "instances"
    if volume.labels is None:
        given = {"labels_are": instances, "annotated": volume.annotated is not None}
        problems += [(key, "has no meaning for a volume without labels") for key, there in given.items() if there]
    elif instances and settings.instances is None:
        problems.append(("labels_are", "is instances, but the settings `instances` are missing"))
    if instances and volume.label_values is not None:
        problems.append(("label_values", "has no meaning for instances, whose classes follow from `instances`"))
    for number, part in enumerate(volume.annotated or ()):
        if not isinstance(part, int):
            problems += [(f"annotated.{number}", text) for text in region_problems(Region.between(part))]
    return problems


def _instance_problems(instances: Instances, classes: Collection[str]) -> list[Problem]:
    problems = [
        (f"instances.{key}", f"{name!r} is none of the classes {', '.join(classes)}")
        for key, name in (("boundary", instances.boundary), ("object", instances.object))
        if name not in classes
    ]
    if instances.boundary == instances.object:
        problems.append(("instances.object", f"is {instances.object!r}, as the boundary: objects could not be parted"))
    return problems


def _address_problems(settings: Settings) -> list[Problem]:
    addresses = {"model": settings.model, "train.init": settings.train.init}
    for name, volume in settings.volumes.items():
        addresses |= {f"volumes.{name}.{key}": getattr(volume, key) for key in ("image", "labels", "mask")}
    return [
        (
            path,
            f"{address!r} holds one of < > {{ }}, which Snakemake takes for a pattern: rename the file, or link to it",
        )
        for path, address in addresses.items()
        # Where data_dir is missing, that is said already.
        if address is not None and set("<>{}") & set(address.replace("{data_dir}", ""))
    ]


def _phantom_problems(phantom: Phantom) -> list[Problem]:
    problems = [
        (f"phantom.{name}", f"there is no section {section}: the phantom has {phantom.shape[0]}")
        for name, section in (("missing", phantom.missing), ("fold", phantom.fold))
        if section is not None and section >= phantom.shape[0]
    ]
    if phantom.missing is not None and phantom.missing == phantom.fold:
        problems.append(("phantom.fold", f"the section {phantom.fold} is the missing one: it shows no fold"))
    return problems


def region_problems(region: Region, shape: Shape | None = None) -> list[str]:
    """What is wrong with a region: it is empty, or reaches beyond a volume of ``shape``; a sentence for each axis."""
    problems = []
    for axis, (start, stop), size in zip(AXES, region.spans, shape or region.stop, strict=True):
        if start >= stop:
            problems.append(f"[{start}, {stop}) along {axis} holds no voxel")
        elif start < 0 or stop > size:
            problems.append(f"[{start}, {stop}) along {axis} reaches beyond the volume, which has {size} voxels there")
    return problems


def network_problems(network: Network) -> list[Problem]:
    """Kernels, poolings and sections that make no network."""
    problems: list[Problem] = []
    for key, shapes, levels in (
        ("kernel", network.kernels, network.depth + 1),
        ("pooling", network.poolings, network.depth),
    ):
        if len(shapes) != levels:
            found = f"is a list of {len(shapes)}; a network of depth {network.depth} needs {levels}"
            problems.append((f"network.{key}", found))
    if any(n % 2 == 0 for kernel in network.kernels for n in kernel):
        problems.append(("network.kernel", "is even along an axis: what it sees would lie off its centre"))
    if network.sections % 2 == 0:
        problems.append(("network.sections", f"{network.sections} is even: as many are needed before as after"))
    unused = {"full_resolution": ["pooling", "skips", "upsampling"], "patch_classifier": ["skips", "upsampling"]}
    problems += [
        (f"network.{key}", f"has no meaning for the network {network.name}: leave it out")
        for key in unused.get(network.name, [])
        if getattr(network, key) != Network.model_fields[key].default
    ]
    if not problems and network.sections > 1 and network.geometry.dimensions == 3:
        problems.append(("network.sections", "is for 2D networks; a 3D network sees a stack anyway"))
    return problems


def tile_problems(settings: Settings, network: Network) -> list[Problem]:
    """Tiles that ``network`` cannot take."""
    net = network.geometry
    problems: list[Problem] = []
    for path, voxels in (("augment.tile", settings.augment.tile), ("predict.tile", settings.predict.tile)):
        trains = settings.model is None
        if voxels is None or (path == "augment.tile" and not trains):
            continue
        try:
            tile = network.tile(voxels)
        except ValueError as error:
            problems.append((path, str(error)))
            continue
        if net.is_legal(tile):
            continue
        kept = [max(1, n) for n in net.output(tile)]
        smaller, larger = (
            list(net.tile_for([max(1, n - less * (p - 1)) for n, p in zip(kept, net.pooling, strict=True)]))
            for less in (1, 0)
        )
        near = " and ".join(dict.fromkeys(str(size[3 - net.dimensions :]) for size in (smaller, larger)))
        problems.append((path, f"the network cannot take {list(voxels)}: near sizes that it can take are {near}"))
    return problems


def mirror_problems(settings: Settings, network: Network) -> list[Problem]:
    """Axes along which ``network`` cannot be mirrored, or not twice."""
    axes, asked = settings.predict.mirror_axes, settings.predict.mirror
    if axes and len(asked) > len(axes):
        return [("predict.mirror", f"{asked} names an axis twice")]
    if "z" not in axes or network.geometry.dimensions == 3:
        return []
    seen = "a single section" if network.sections == 1 else f"{network.sections} sections, in their order"
    return [("predict.mirror", f"z is for 3D networks; this one sees {seen}, and can be mirrored along y and x")]
