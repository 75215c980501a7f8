// The viewer's configuration and what LiverLoop adds to it; the viewer reads it before it starts.
(function () {
  const root = __ROOT__; // of our proxy to the PACS
  const colors = __COLORS__; // [red, green, blue] of our classes by their names
  const panelMode = '@ohif/mode-monai-label';
  const brushMode = '@ohif/mode-segmentation';

  // MONAI Label's panel takes its server's address from this cookie; without one it guesses port 8000.
  document.cookie = 'MONAILABEL_SERVER_URL=' + escape(window.location.origin + '/') + '; path=/ohif; samesite=strict';

  // Its progress bars have white text on white.
  const style = document.createElement('style');
  style.textContent = '.monaiLabelPanel .w3-container { color: black; text-align: center; }';
  document.head.append(style);

  // The panel colors classes by a list of its own and makes up a color for a name that isn't in there.
  function paint() {
    const { segmentation } = window.cornerstoneTools;
    const panels = segmentation.state.getSegmentation('1'); // of MONAI Label's panel; a SEG brings its own colors
    for (const viewportId of panels ? segmentation.state.getViewportIdsWithSegmentation('1') : []) {
      for (const { segmentIndex, label } of Object.values(panels.segments).filter(Boolean)) {
        const wanted = Object.hasOwn(colors, label) && [...colors[label], 255];
        const now = wanted && segmentation.config.color.getSegmentIndexColor(viewportId, '1', segmentIndex);
        if (now && wanted.some((value, index) => value !== now[index])) {
          segmentation.config.color.setSegmentIndexColor(viewportId, '1', segmentIndex, wanted);
        }
      }
    }
  }

  const painted = () => setTimeout(paint); // after whoever changes something has done so

  function changes() {
    const { Events } = window.cornerstoneTools.Enums;
    // A new color is told as an added representation.
    return [Events.SEGMENTATION_REPRESENTATION_ADDED, Events.SEGMENTATION_REPRESENTATION_MODIFIED];
  }

  // Writing a SEG, the viewer sorts the images from the last along their normal to the first, but not the slices drawn
  // on them: of a series that is numbered the other way, the SEG would be upside down. So these are sorted before.
  async function withSortedSlices(segmentationId, write) {
    const { cache, metaData } = window.cornerstone;
    const labelmap = window.cornerstoneTools.segmentation.state.getSegmentation(segmentationId)?.representationData.Labelmap;
    if (!labelmap?.imageIds) {
      return write();
    }
    const height = (imageId) => {
      const { ImagePositionPatient: position, ImageOrientationPatient: axes } = metaData.get(
        'instance',
        cache.getImage(imageId).referencedImageId
      );
      const [a, b, c, d, e, f] = Array.from(axes, Number);
      const normal = [b * f - c * e, c * d - a * f, a * e - b * d];
      return normal.reduce((sum, value, axis) => sum + value * Number(position[axis]), 0);
    };
    const before = labelmap.imageIds;
    labelmap.imageIds = before
      .map((imageId) => [height(imageId), imageId])
      .sort(([first], [second]) => second - first)
      .map(([, imageId]) => imageId);
    try {
      return await write();
    } finally {
      labelmap.imageIds = before;
    }
  }

  // "Export DICOM SEG" of the panel of segmentations does not say where to, and would not tell how it went.
  function mendStoring({ commandsManager, extensionManager, servicesManager }) {
    const { uiNotificationService } = servicesManager.services;
    const tell = (type, message) => uiNotificationService.show({ title: 'LiverLoop', message, type, duration: 8000 });
    const replace = (name, make) => {
      const command = commandsManager.getCommand(name, 'SEGMENTATION');
      if (command && !command.mended) {
        const commandFn = make(command.commandFn);
        commandsManager.registerCommand('SEGMENTATION', name, { ...command, commandFn, mended: true });
      }
    };
    replace('downloadSegmentation', (download) => (options) =>
      withSortedSlices(options.segmentationId, () => download(options))
    );
    replace('storeSegmentation', (store) => async (options) => {
      const [dataSource] = extensionManager.getActiveDataSource();
      try {
        const stored = await withSortedSlices(options.segmentationId, () => store({ dataSource, ...options }));
        if (stored) {
          tell('success', 'The segmentation is in the PACS now');
        }
        return stored;
      } catch (error) {
        let reason = error?.message;
        try {
          reason = JSON.parse(error.response).detail ?? reason; // of our proxy, in words
        } catch {
          // of something else
        }
        tell('error', `The segmentation is NOT in the PACS: ${reason}`);
      }
    });
  }

  // Where no image is left, "Next Sample" would show an empty table, and its OK open a study that isn't there.
  function mendNextSample({ uiModalService, uiNotificationService }) {
    const shared = Object.getPrototypeOf(uiModalService); // as the panel makes a service of its own
    if (shared.mended) {
      return;
    }
    const show = shared.show;
    shared.mended = true;
    shared.show = function (options) {
      if (options.customClassName !== 'nextSampleForm' || options.contentProps?.info?.id) {
        return show.call(this, options);
      }
      const message = 'No CT is left for this strategy: each one is done, left out or not usable';
      uiNotificationService.show({ title: 'LiverLoop', message, type: 'info', duration: 8000 });
    };
  }

  let extensionManager;
  const extension = {
    id: 'liverloop',
    preRegistration(context) {
      extensionManager = context.extensionManager;
    },
    onModeEnter(context) {
      mendStoring({ ...context, extensionManager }); // only now are all extensions there
      mendNextSample(context.servicesManager.services);
      changes().forEach((change) => window.cornerstone.eventTarget.addEventListener(change, painted));
    },
    onModeExit() {
      changes().forEach((change) => window.cornerstone.eventTarget.removeEventListener(change, painted));
    },
  };

  // The mode of MONAI Label with the brushes of the segmentation mode, and the panel that stores SEGs in the PACS.
  async function modeFactory({ modeConfiguration, loadModules }) {
    const modules = await loadModules([panelMode, brushMode]);
    const [mode, brushes] = modules.map((one) => one.modeFactory({ modeConfiguration }));

    return {
      ...mode,
      onModeEnter(context) {
        mode.onModeEnter(context);
        const { services } = context.servicesManager;
        // Only the buttons of the other mode: tools of the same names are there already.
        brushes.onModeEnter({
          ...context,
          servicesManager: {
            services: {
              ...services,
              toolGroupService: { createToolGroupAndAddTools() {} },
              toolbarService: { addButtons: (all) => services.toolbarService.addButtons(all), createButtonSection() {} },
            },
          },
        });
      },
      routes: mode.routes.map((route) => ({
        ...route,
        layoutTemplate(context) {
          const layout = route.layoutTemplate(context);
          // On the left, since the panel on the right would forget its connection when another one takes its place.
          layout.props.leftPanels.push('@ohif/extension-cornerstone.panelModule.panelSegmentationWithTools');
          return layout;
        },
      })),
    };
  }

  window.config = {
    routerBasename: '/ohif/',
    showStudyList: true,
    extensions: [extension],
    modes: [{ id: panelMode, modeFactory }], // in place of the one of this name
    showWarningMessageForCrossOrigin: true,
    showCPUFallbackMessage: true,
    showLoadingIndicator: true,
    strictZSpacingForVolumeViewport: true,
    useSharedArrayBuffer: 'FALSE',
    defaultDataSourceName: 'dicomweb',
    dataSources: [
      {
        namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
        sourceName: 'dicomweb',
        configuration: {
          friendlyName: 'PACS',
          name: 'PACS',
          qidoRoot: root,
          wadoRoot: root, // where it stores, too
          qidoSupportsIncludeField: true,
          supportsReject: false,
          imageRendering: 'wadors',
          thumbnailRendering: 'wadors',
          enableStudyLazyLoad: true,
          supportsFuzzyMatching: false,
          supportsWildcard: true,
          dicomUploadEnabled: false,
          bulkDataURI: { enabled: true },
        },
      },
    ],
  };
})();
