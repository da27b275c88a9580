//! GPUs.

use super::*;

const CHIPS: &[&str] = &["GH100", "LS_10"];

const DRIVERS: &[&str] = &["550.9", "550.90.07", "550.90", "7"];

const VBIOSES: &[&str] = &["96.00.9F", "96.00.A0.01", "9.FF"];

/// Whether there is GPU evidence, whether the inventory lists it, chip, driver, VBIOS, serial.
type Device = (bool, bool, &'static str, &'static str, &'static str, &'static str);

const SERIALS: &[&str] = &["41", "42"];

fn devices() -> impl Strategy<Value = Device> {
    let flags = (any::<bool>(), any::<bool>());
    (flags, select(CHIPS), select(DRIVERS), select(VBIOSES), select(SERIALS))
        .prop_map(|((there, listed), chip, driver, vbios, serial)| (there, listed, chip, driver, vbios, serial))
}

fn gpu_kept(policy: &GpuPolicy, (there, listed, name, driver, vbios, serial): &Device) -> Kept {
    let (driver, vbios) = (Version::driver(driver).unwrap(), Version::vbios(vbios).unwrap());
    let floor = policy.min_vbios.get(&chip(name));
    vec![
        ("required", *there || !policy.required),
        ("locality", *listed || !policy.inventory_required),
        (
            "products",
            policy.products.as_ref().is_none_or(|list| list.contains(&chip(name))),
        ),
        (
            "min_driver",
            policy.min_driver.as_ref().is_none_or(|least| !driver.is_below(least)),
        ),
        ("min_vbios", floor.is_none_or(|least| !vbios.is_below(least))),
        ("denied", !policy.denied.contains(*serial)),
    ]
}

fn gpu_policies() -> impl Strategy<Value = GpuPolicy> {
    let vbios = proptest::collection::btree_map(select(CHIPS), select(VBIOSES), 0..3);
    let lists = (of(some(CHIPS)), some(SERIALS));
    (any::<[bool; 2]>(), of(select(DRIVERS)), vbios, lists).prop_map(|(flags, driver, vbios, (chips, denied))| {
        GpuPolicy {
            required: flags[0],
            inventory_required: flags[1],
            products: chips.map(|chips| chips.into_iter().map(chip).collect()),
            min_driver: driver.and_then(Version::driver),
            min_vbios: vbios
                .into_iter()
                .map(|(c, v)| (chip(c), Version::vbios(v).unwrap()))
                .collect(),
            denied: denied.into_iter().map(str::to_owned).collect(),
        }
    })
}

fn gpu_said() -> impl Strategy<Value = RegionGpu> {
    let locality = of(select(&[file::Locality::Guest, file::Locality::Inventory][..]));
    let vbios = proptest::collection::btree_map(select(CHIPS), select(VBIOSES), 0..3);
    let lists = (of(words(CHIPS)), words(SERIALS));
    (of(any::<bool>()), locality, of(select(DRIVERS)), vbios, lists).prop_map(
        |(required, locality, driver, vbios, (products, denied))| RegionGpu {
            required,
            locality,
            products,
            min_driver: driver.map(Into::into),
            min_vbios: vbios.into_iter().map(|(c, v)| (c.to_owned(), v.to_owned())).collect(),
            denied,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn gpus_only_narrow(whole in gpu_policies(), said in gpu_said(), devices in vec(devices(), 8)) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        for device in &devices {
            only_narrows(gpu_kept(&whole, device), gpu_kept(&region, device))?;
        }
    }
}
